// ---------------------------------------------------------------- connection

let socket = null, attempt = 0, openedAt = 0, receivedAt = 0, pingedAt = 0, retryAt = 0, retryTimer = 0, probeTimer = 0;

const isOpen = () => socket !== null && socket.readyState === WebSocket.OPEN;

function connect() {
  dropSocket();
  clearTimeout(retryTimer);
  showLink('connecting');
  const mine = new WebSocket((location.protocol === 'https:' ? 'wss://' : 'ws://') + location.host + '/');
  socket = mine;
  openedAt = receivedAt = pingedAt = Date.now();
  // Ignores events of a dropped socket, which may still arrive.
  mine.addEventListener('open', () => mine === socket && opened());
  mine.addEventListener('message', event => mine === socket && received(event.data));
  mine.addEventListener('close', event => mine === socket && closed(event.code, event.reason));
}

function dropSocket() {
  const old = socket;
  socket = null;
  if (old) old.close();
}

function opened() {
  openedAt = Date.now();
  showLink('open');
  for (const key of ['offline', 'close 1013', 'close 4401']) dropNotice(key);   // no longer true
  if (!hasUser()) requestFreeUser(); else identify();
}

/** Sends the user and the threads, which the server must be told on every new connection. */
function identify() {
  transmit({ type: 'user_connected', userId: state.user, ...withToken() });
  for (const threadId of new Set([...state.joined, state.thread])) {
    if (threadId) transmit({ type: 'join_thread', threadId });
  }
  transmit({ type: 'online_users' });
  resumeCalls();
}

/** A second tab should become another user, so it requests the online list before it identifies. */
function requestFreeUser() {
  transmit({ type: 'online_users', clientId: 'free-user' });
  probeTimer = setTimeout(() => chooseUser(null), PROBE_WAIT);
}

/** `taken` is null if the server refused the list, for example because it requires a token first. */
function chooseUser(taken) {
  clearTimeout(probeTimer);
  if (hasUser() || !isOpen()) return;
  let number = 1;
  if (taken) while (taken.has(String(number))) number++;
  else number = 10 + Math.floor(Math.random() * 90);
  state.user = String(number);
  saveSession();
  drawTitle();
  drawPlace();
  identify();
}

const CLOSE_REASONS = {
  1008: 'The server closed the connection because you are not authenticated. Enter a token under Token and press Apply.',
  1009: 'The frame was too big for the server.',
  1013: 'The server is overloaded.',
  4401: 'The server refused the token, or it has expired. Enter a new one under Token and press Apply.',
};

function closed(code, reason) {
  socket = null;
  clearTimeout(probeTimer);
  state.online.clear();
  state.typing.clear();
  state.confirmed = false;
  failWaiting();
  suspendCalls();
  if (CLOSE_REASONS[code]) notice('close ' + code, 'bad', [code + (reason ? ' ' + reason : ''), CLOSE_REASONS[code]]);
  if (code === 4401) showLink('stopped'); else retryLater();
  drawPlace();
}

/** Exponential backoff up to 30 seconds, with jitter so that not all clients reconnect to a restarted server at once. */
function retryLater() {
  if (Date.now() - openedAt > STEADY) attempt = 0;
  const pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** attempt++) * (0.5 + Math.random() / 2);
  retryAt = Date.now() + pause;
  retryTimer = setTimeout(connect, pause);
  showLink('waiting');
}

/** A phone that changes networks gets no close event, so the page detects silence after a ping. */
function checkHeartbeat() {
  if (!socket || Date.now() - pingedAt < PING_EVERY) return;
  if (receivedAt < pingedAt || !isOpen()) { dropSocket(); closed(1006, ''); return; }
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

