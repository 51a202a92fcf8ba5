// ---------------------------------------------------------------- frames in

function received(raw) {
  heardAt = Date.now();
  let frame = null;
  try { frame = JSON.parse(raw); } catch { /* shown as it came */ }
  logFrame('in', frame?.type === 'ice_servers' ? frame : raw);
  // Types this page does not know are seen in the frames panel and otherwise left alone, as every client should.
  if (frame && Object.hasOwn(handlers, frame.type)) handlers[frame.type](frame);
}

const handlers = {
  user_connected(frame) { state.online.add(String(frame.userId)); drawPlace(); },

  user_disconnected(frame) {
    state.online.delete(String(frame.userId));
    state.typing.delete(String(frame.userId));
    drawPlace();
  },

  online_users(frame) {
    const ids = new Set((Array.isArray(frame.userIds) ? frame.userIds : []).map(String));
    if (nobodyChosen()) chooseUser(ids);
    state.online = ids;
    drawPlace();
  },

  thread_joined(frame) {
    if (state.joined.size < MAX_JOINED) state.joined.add(String(frame.threadId));
    if (String(frame.threadId) === state.thread) Object.assign(state, { confirmed: true, refused: false });
    drawPlace();
  },

  thread_left(frame) { state.joined.delete(String(frame.threadId)); },

  typing(frame) {
    const user = String(frame.userId);
    if (String(frame.threadId) !== state.thread || user === state.user) return; // the typist gets the frame too
    if (frame.typing) state.typing.add(user); else state.typing.delete(user);
    drawTyping();
  },

  message(frame) {
    const thread = String(frame.threadId);
    const known = state.messages.find(item => frame.clientId && item.clientId === frame.clientId);
    if (known?.status === 'sent' || (!known && isRepeat(frame))) return;
    const began = known && !known.thread && isHere(known);  // the answer to the new conversation we look at
    const item = Object.assign(known || {}, {
      thread, sender: String(frame.senderId), text: String(frame.message), status: 'sent',
      messageId: frame.messageId, sentAt: frame.sentAt,
    });
    settle(item);
    if (began) goToThread(thread);
    else if (isHere(item)) drawMessage(item);
    else if (!known) notice('thread ' + thread, '', ['', `User ${item.sender} wrote in thread ${thread}.`], ['Go there', () => goToThread(thread)]);
    if (item.sender !== state.user) countUnread(item);
  },

  error(frame) {
    if (nobodyChosen() && frame.clientId === 'who-is-there') { chooseUser(null); return; }
    const item = frame.clientId && state.messages.find(m => m.clientId === frame.clientId && m.status === 'waiting');
    const code = String(frame.code || 'error'), text = String(frame.message || '');
    if (item) { fail(item, code, text); return; }
    if (takeCallError(frame, code, text)) return;
    notice('error ' + code, 'bad', [code, text + (frame.replyTo ? ` (answer to ${frame.replyTo})` : '')]);
    if (frame.replyTo === 'join_thread' && String(frame.threadId ?? state.thread) === state.thread) state.refused = !state.confirmed;
    drawPlace();
    if (code.startsWith('token_')) openSettings(true);
  },
};

const isRepeat = frame => frame.messageId != null &&
  state.messages.some(item => item.messageId === frame.messageId && item.thread === String(frame.threadId));

/** Puts an item that has its outcome where the server's order wants it: behind the last one that has. */
function settle(item) {
  const list = state.messages.filter(other => other !== item);
  const end = list.findIndex(other => other.status !== 'sent');
  list.splice(end < 0 ? list.length : end, 0, item);
  state.messages = list;
  forgetOldest();
}

function forgetOldest() {
  while (state.messages.length > MAX_MESSAGES) state.messages.shift().node?.remove();
}

function fail(item, code, text) {
  Object.assign(item, { status: 'failed', code, error: text });
  if (!isHere(item)) notice('error ' + code, 'bad', [code, `A message to thread ${item.thread || '(new)'}: ${text}`]);
  else { drawMessage(item); $('urgent').textContent = `Not sent: ${text}`; }
}

function loseWaiting() {
  for (const item of state.messages) {
    if (item.status === 'waiting') fail(item, 'connection_lost', 'The connection broke before the server answered.');
  }
}

function countUnread(item) {
  $('polite').textContent = `User ${item.sender}: ${item.text.slice(0, 200)}`;
  if (document.hidden || !document.hasFocus()) state.unread++;
  drawTitle();
}

