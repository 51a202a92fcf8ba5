// ---------------------------------------------------------------- connection

let socket = null, attempt = 0, openedAt = 0, heardAt = 0, pingedAt = 0, retryAt = 0, retryTimer = 0, probeTimer = 0;

const isOpen = () => socket !== null && socket.readyState === WebSocket.OPEN;

function connect() {
  abandon();
  clearTimeout(retryTimer);
  showLink('connecting');
  const mine = new WebSocket((location.protocol === 'https:' ? 'wss://' : 'ws://') + location.host + '/');
  socket = mine;
  openedAt = heardAt = pingedAt = Date.now();
  // A socket that was given up may still speak; only the current one is listened to.
  mine.addEventListener('open', () => mine === socket && opened());
  mine.addEventListener('message', event => mine === socket && received(event.data));
  mine.addEventListener('close', event => mine === socket && closed(event.code, event.reason));
}

function abandon() {
  const old = socket;
  socket = null;
  if (old) old.close();
}

function opened() {
  openedAt = Date.now();
  showLink('open');
  for (const key of ['offline', 'close 1013', 'close 4401']) dropNotice(key);   // no longer true
  if (nobodyChosen()) askForFreeUser(); else introduce();
}

/** Says who we are and where, which a server has to be told on every new connection. */
function introduce() {
  transmit({ type: 'user_connected', userId: state.user, ...withToken() });
  for (const threadId of new Set([...state.joined, state.thread])) {
    if (threadId) transmit({ type: 'join_thread', threadId });
  }
  transmit({ type: 'online_users' });
  resumeCalls();
}

/** A second tab should come up as somebody else, so ask who is there before saying who we are. */
function askForFreeUser() {
  transmit({ type: 'online_users', clientId: 'who-is-there' });
  probeTimer = setTimeout(() => chooseUser(null), PROBE_WAIT);
}

/** `taken` is null when the server would not say (a server that wants a token first, say). */
function chooseUser(taken) {
  clearTimeout(probeTimer);
  if (!nobodyChosen() || !isOpen()) return;
  let number = 1;
  if (taken) while (taken.has(String(number))) number++;
  else number = 10 + Math.floor(Math.random() * 90);
  state.user = String(number);
  remember();
  drawTitle();
  drawPlace();
  introduce();
}

const CLOSE_REASONS = {
  1008: 'The server closed the connection: nothing has proven who you are. Enter a token under Token and press Apply.',
  1009: 'That frame was too big for the server.',
  1013: 'The server is too busy just now.',
  4401: 'The server refused the token, or it has expired. Enter a fresh one under Token and press Apply.',
};

function closed(code, reason) {
  socket = null;
  clearTimeout(probeTimer);
  state.online.clear();
  state.typing.clear();
  state.confirmed = false;
  loseWaiting();
  callsLoseServer();
  if (CLOSE_REASONS[code]) notice('close ' + code, 'bad', [code + (reason ? ' ' + reason : ''), CLOSE_REASONS[code]]);
  if (code === 4401) showLink('stopped'); else retryLater();
  drawPlace();
}

/** Pauses double up to half a minute. Jitter, so that a restarted server is not met by everyone at once. */
function retryLater() {
  if (Date.now() - openedAt > STEADY) attempt = 0;
  const pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** attempt++) * (0.5 + Math.random() / 2);
  retryAt = Date.now() + pause;
  retryTimer = setTimeout(connect, pause);
  showLink('waiting');
}

/** A phone that changed networks gets no close event; silence after a ping is how the page finds out. */
function checkPulse() {
  if (!socket || Date.now() - pingedAt < PING_EVERY) return;
  if (heardAt < pingedAt || !isOpen()) { abandon(); closed(1006, ''); return; }
  pingedAt = Date.now();
  transmit({ type: 'ping' });
}

function transmit(frame) {
  if (!isOpen()) return false;
  socket.send(JSON.stringify(frame));
  logFrame('out', frame);
  return true;
}

const withToken = () => state.token ? { token: state.token } : {};

