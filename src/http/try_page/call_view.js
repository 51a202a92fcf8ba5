// ---------------------------------------------------------------- drawing calls

const minutes = since => {
  const seconds = Math.floor((Date.now() - since) / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
};

/** Why a call has ended, as a sentence from the perspective of the user of this page. */
const ENDINGS = {
  hangup: (who, call) => call.group ? 'The group call is over.' : `${who} hung up.`,
  rejected: (who, call) => call.caller ? `${who} declined the call.` : 'You declined the call.',
  cancelled: (who, call) => call.caller ? 'You cancelled the call.' : `Missed call: ${call.group ? 'user ' + call.from : who} gave up before you answered.`,
  busy: (who, call) => call.caller ? `${who} is in another call.` : `You were in another call when ${who} called.`,
  no_answer: (who, call) => !call.caller ? `Missed call from user ${call.from}.` : call.group ? 'Nobody answered.' : `${who} did not answer.`,
  answered_elsewhere: () => 'Answered on another device.',
  disconnected: who => `The connection to ${who[0].toLowerCase() + who.slice(1)} was lost.`,
  failed: () => 'The call failed: the devices could not connect to each other.',
  glare: () => 'You called each other at the same moment; the other call continues.',
};

function showEnd(call, reason) {
  const who = capital(nameOf(call));
  const lasted = call.since ? ` The call lasted ${minutes(call.since)}.` : '';
  const again = !call.group && reason !== 'answered_elsewhere' && reason
    ? [call.caller || call.since ? 'Call again' : 'Call back', () => beginCall(call.video, call.peer)] : [];
  if (!reason) { $('polite').textContent = 'The call has ended.'; return; }
  if (!Object.hasOwn(ENDINGS, reason)) return;       // an error, whose own text says more
  const className = ['disconnected', 'failed'].includes(reason) ? 'bad' : '';
  notice(call.links ? 'call end' : 'missed ' + call.from,    // a call that only rang has no links
    className, ['', ENDINGS[reason](who, call) + lasted], again);
}

/** Removes the notices of the last call and of missed calls from `peer`. */
function dropCallNotices(peer) {
  dropNotice('call end');
  dropNotice('missed ' + peer);
}

function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  use.setAttribute('href', '#i-' + name);
  svg.append(use);
  return svg;
}

function iconButton(name, text, action, className = '') {
  const node = button(text, action, className);
  node.prepend(icon(name));
  return node;
}

/** Sets the icon and text of a button; small screens show the icon alone. */
function label(id, name, text) {
  const node = $(id);
  if (node.dataset.shown === name + text) return;
  node.dataset.shown = name + text;
  node.title = text;
  node.replaceChildren(icon(name), el('span', { className: 'words' }, text));
}

// ------------------------------ choice of the callee

const others = () => [...state.online].filter(user => user !== state.user).sort(byNumber.compare);

/** The only possible callee; empty if there are several, or none. */
function onlyPeer() {
  if (state.recipient) return state.recipient;
  const there = others();
  return there.length === 1 ? there[0] : '';
}

function drawCallButtons() {
  const peer = onlyPeer(), noPeers = !peer && !others().length;
  for (const [id, kind] of [['audioCall', 'Audio call'], ['videoCall', 'Video call']]) {
    $(id).disabled = !isOpen() || !hasUser() || noPeers || calls.current !== null;
    $(id).title = $(id).ariaLabel = noPeers ? `${kind}: no other user is online` : peer ? `${kind} with user ${peer}` : `${kind} with…`;
  }
}

function callOrChoose(video, opener) {
  const peer = onlyPeer();
  if (peer) beginCall(video, peer); else showCallees(video, opener);
}

/** Shows a list under the button; the browser closes it on Escape or a click elsewhere. */
function showCallees(video, opener) {
  const pick = (peer, ...words) => {
    const node = button('', () => { $('callees').hidePopover(); beginCall(video, peer); });
    node.append(...words);
    return el('li', {}, node);
  };
  const there = others();
  const rows = there.slice(0, MAX_LISTED).map(user => pick(user, face(user), `User ${user}`));
  if (state.thread && state.confirmed) rows.unshift(pick('', icon('group'), `Everyone in thread ${state.thread}`));
  $('calleesTitle').textContent = video ? 'Video call with' : 'Audio call with';
  $('calleesList').replaceChildren(...rows);
  const box = opener.getBoundingClientRect(), list = $('callees');
  list.showPopover();
  list.style.top = box.bottom + 6 + 'px';
  list.style.left = Math.max(8, box.right - list.offsetWidth) + 'px';
  $('calleesList').querySelector('button')?.focus();
}

// ------------------------------ incoming calls

/** Hides a call from the user who is being called: the server merges the two calls (glare). */
const isShown = ring => !ring.gone && !(calls.current?.caller && calls.current.peer === ring.from && calls.current.stage !== 'active');

function drawRings() {
  const shown = [...calls.rings.values()].filter(isShown), list = $('rings');
  for (const node of [...list.children]) if (!shown.some(ring => ring.node === node)) dropRing(node);
  for (const ring of shown) if (!ring.node?.isConnected || ring.drawnIn !== Boolean(calls.current)) drawRing(ring);
  drawTitle();
}

function dropRing(node) {
  const hadFocus = node.contains(document.activeElement);
  node.remove();
  if (hadFocus && !calls.current) $('audioCall').focus();
}

function drawRing(ring) {
  const kind = `${ring.group ? 'Group' : ring.video ? 'Video' : 'Audio'} call${ring.thread ? `, thread ${ring.thread}` : ''}`;
  const rest = calls.current ? '. Accepting ends this call.' : '';
  const acts = el('div', { className: 'acts' }, iconButton('hangup', 'Decline', () => declineCall(ring), 'stop'));
  if (ring.video) acts.append(iconButton('phone', 'Audio only', () => acceptCall(ring, false)));
  acts.append(iconButton(ring.video ? 'camera' : 'phone', 'Accept', () => acceptCall(ring, ring.video), 'main'));
  const node = el('div', { className: 'ring', role: 'group', ariaLabel: `User ${ring.from} is calling` },
    face(ring.from), el('div', { className: 'words' }, el('b', {}, `User ${ring.from} is calling`), el('span', { className: 'small soft' }, kind + rest)), acts);
  if (ring.node?.isConnected) ring.node.replaceWith(node);
  else { $('rings').append(node); $('urgent').textContent = `User ${ring.from} is calling. ${kind}${rest}`; }
  Object.assign(ring, { node, drawnIn: Boolean(calls.current) });
}

// ------------------------------ the current call

const STAGES = {
  preparing: call => call.video ? 'Waiting for microphone and camera…' : 'Waiting for the microphone…',
  calling: call => call.offline ? 'Not online now. It rings as soon as they are.' : 'Calling…',
  ringing: () => 'Ringing…',
  connecting: () => 'Connecting…',
  active: call => minutes(call.since) + (call.group ? ` · ${call.links.size + 1} people` : ''),
};

function callStatus(call) {
  if (call.lost) return `${call.since ? minutes(call.since) + ' · ' : ''}no connection to the server, trying again…`;
  if (call.group && call.since && !call.links.size) return 'You are the only participant.';
  const links = [...call.links.values()];
  if (call.since && links.some(link => ['disconnected', 'failed'].includes(link.pc.connectionState))) return 'The connection is bad, trying again…';
  return STAGES[call.stage](call);
}

const hasPicture = link => link.media.getVideoTracks().some(track => !track.muted && track.readyState === 'live');

function drawCallStatus() {
  if (calls.current) $('callStatus').textContent = callStatus(calls.current);
}

function drawCall() {
  const call = calls.current, wasHidden = $('call').hidden;
  $('call').hidden = !call;
  $('app').classList.toggle('in-call', Boolean(call));
  drawCallButtons();
  drawRings();
  if (!call) { $('ownVideo').srcObject = null; for (const tile of [...$('tiles').querySelectorAll('.other')]) dropTile(tile); return; }

  const pictures = call.video || [...call.links.values()].some(hasPicture);
  $('call').dataset.kind = pictures ? 'video' : 'audio';
  $('callWho').textContent = call.group ? 'Group call' : `User ${call.peer}`;
  drawCallStatus();
  drawTiles(call);
  label('mute', call.mic?.enabled === false ? 'mic-off' : 'mic', !call.mic ? 'No microphone' : call.mic.enabled ? 'Mute' : 'Unmute');
  label('camera', call.camera ? 'camera' : 'camera-off', call.camera ? 'Camera off' : 'Camera on');
  label('hangUp', 'hangup', isWaiting(call) || call.stage === 'preparing' ? 'Cancel' : call.group ? 'Leave' : 'Hang up');
  $('mute').disabled = !call.mic;
  $('camera').disabled = call.stage === 'preparing' || !navigator.mediaDevices;
  const lostFocus = document.activeElement === document.body || document.activeElement?.disabled;
  if (wasHidden && lostFocus) $('hangUp').focus();
}

function dropTile(tile) {
  tile.querySelector('video').srcObject = null;
  tile.remove();
}

function drawTiles(call) {
  const users = call.group ? [...call.links.keys()].sort(byNumber.compare) : [call.peer];
  for (const tile of [...$('tiles').querySelectorAll('.other')]) if (!users.includes(tile.dataset.user)) dropTile(tile);
  for (const user of users) drawTile(user, call.links.get(user));
  const isRinging = isWaiting(call) || call.stage === 'preparing';
  $('tiles').classList.toggle('group', call.group);
  $('tiles').classList.toggle('rings', isRinging);
  $('tiles').dataset.count = users.length + (call.group ? 1 : 0);
  const own = $('ownVideo'), shown = own.srcObject?.getVideoTracks()[0] || null;
  if (shown !== call.camera) own.srcObject = call.camera ? new MediaStream([call.camera]) : null;
  $('me').hidden = !call.camera && !call.group;
  $('me').classList.toggle('seen', Boolean(call.camera));
  if ($('me').dataset.user !== state.user) {
    $('me').querySelector('.face')?.remove();
    $('me').prepend(face(state.user));
    $('me').dataset.user = state.user;
  }
}

function drawTile(user, link) {
  let tile = [...$('tiles').querySelectorAll('.other')].find(node => node.dataset.user === user);
  if (!tile) {
    const video = el('video', { autoplay: true, playsInline: true, ariaLabel: `Video of user ${user}` });
    tile = el('div', { className: 'tile other' }, video, face(user), el('span', { className: 'name' }, `User ${user}`));
    tile.dataset.user = user;
    $('tiles').insertBefore(tile, $('me'));
  }
  const video = tile.querySelector('video');
  if (link && video.srcObject !== link.media) video.srcObject = link.media;
  tile.classList.toggle('seen', Boolean(link && hasPicture(link)));
}

function addCallListeners() {
  const onClick = (id, action) => $(id).addEventListener('click', action);
  onClick('audioCall', event => callOrChoose(false, event.currentTarget));
  onClick('videoCall', event => callOrChoose(true, event.currentTarget));
  onClick('mute', toggleMicrophone);
  onClick('camera', toggleCamera);
  onClick('hangUp', hangUp);
  setInterval(drawCallStatus, 1000);
  addEventListener('pagehide', leaveCalls);
}
