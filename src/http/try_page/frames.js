// ---------------------------------------------------------------- incoming frames

function received(raw) {
  receivedAt = Date.now();
  let frame = null;
  try { frame = JSON.parse(raw); } catch { /* the raw text is shown */ }
  logFrame('in', frame?.type === 'ice_servers' ? frame : raw);
  // Unknown types appear in the frames panel and are otherwise ignored, as in every client.
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
    if (!hasUser()) chooseUser(ids);
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
    if (String(frame.threadId) !== state.thread || user === state.user) return; // the sender receives the frame too
    if (frame.typing) state.typing.add(user); else state.typing.delete(user);
    drawTyping();
  },

  message(frame) {
    const thread = String(frame.threadId);
    const known = state.messages.find(item => frame.clientId && item.clientId === frame.clientId);
    if (known?.status === 'sent' || (!known && isRepeat(frame))) return;
    const began = known && !known.thread && isInView(known);  // the reply for the new conversation in view
    const item = Object.assign(known || {}, {
      thread, sender: String(frame.senderId), text: String(frame.message), status: 'sent',
      messageId: frame.messageId, sentAt: frame.sentAt,
    });
    placeStored(item);
    if (began) goToThread(thread);
    else if (isInView(item)) drawMessage(item);
    else if (!known) notice('thread ' + thread, '', ['', `User ${item.sender} wrote in thread ${thread}.`], ['Go there', () => goToThread(thread)]);
    if (item.sender !== state.user) countUnread(item);
  },

  error(frame) {
    if (!hasUser() && frame.clientId === 'free-user') { chooseUser(null); return; }
    const item = frame.clientId && state.messages.find(m => m.clientId === frame.clientId && m.status === 'waiting');
    const code = String(frame.code || 'error'), text = String(frame.message || '');
    if (item) { fail(item, code, text); return; }
    if (handleCallError(frame, code, text)) return;
    notice('error ' + code, 'bad', [code, text + (frame.replyTo ? ` (answer to ${frame.replyTo})` : '')]);
    if (frame.replyTo === 'join_thread' && String(frame.threadId ?? state.thread) === state.thread) state.refused = !state.confirmed;
    drawPlace();
    if (code.startsWith('token_')) openSettings(true);
  },
};

const isRepeat = frame => frame.messageId != null &&
  state.messages.some(item => item.messageId === frame.messageId && item.thread === String(frame.threadId));

/** Moves a stored item to its place in the server's order: behind the last stored one. */
function placeStored(item) {
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
  if (!isInView(item)) notice('error ' + code, 'bad', [code, `A message to thread ${item.thread || '(new)'}: ${text}`]);
  else { drawMessage(item); $('urgent').textContent = `Not sent: ${text}`; }
}

function failWaiting() {
  for (const item of state.messages) {
    if (item.status === 'waiting') fail(item, 'connection_lost', 'The connection was lost before the server answered.');
  }
}

function countUnread(item) {
  $('polite').textContent = `User ${item.sender}: ${item.text.slice(0, 200)}`;
  if (document.hidden || !document.hasFocus()) state.unread++;
  drawTitle();
}

