// ---------------------------------------------------------------- actions

/** A clientId. Uses getRandomValues because randomUUID is missing on plain http outside localhost. */
function newClientId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), byte => byte.toString(16).padStart(2, '0')).join('');
}

function canSend() {
  if (isOpen() && hasUser()) return true;
  notice('offline', 'bad', ['', 'Not connected. Your text is kept; send it when the page is connected again.']);
  return false;
}

function sendText(text) {
  const item = { status: 'waiting', clientId: newClientId(), thread: state.thread, recipient: state.recipient, sender: state.user, text };
  state.messages.push(item);
  forgetOldest();
  transmitItem(item);
}

function transmitItem(item) {
  item.status = 'waiting';
  drawMessage(item, true);
  const where = item.thread ? { threadId: item.thread } : { recipientId: item.recipient };
  transmit({ type: 'send_message', ...where, message: item.text, clientId: item.clientId, ...withToken() });
}

/**
 * After a lost connection the same clientId requests the outcome of the first attempt, so nothing is stored twice.
 * After an error the outcome is known, and a new clientId makes it a new attempt.
 */
function sendAgain(item) {
  if (!canSend()) return;
  if (item.code !== 'connection_lost') item.clientId = newClientId();
  transmitItem(item);
}

function editAgain(item) {
  state.messages = state.messages.filter(other => other !== item);
  item.node.remove();
  $('text').value = [item.text, $('text').value].filter(Boolean).join('\n');
  fitText();
  $('text').focus();
  drawEmpty();
}

let typedAt = 0;

function sendTyping() {
  if (!state.confirmed) return;
  const empty = $('text').value === '';
  if (empty && typedAt) transmit({ type: 'typing', threadId: state.thread, typing: false });
  else if (!empty && Date.now() - typedAt >= TYPING_EVERY) transmit({ type: 'typing', threadId: state.thread });
  else return;
  typedAt = empty ? 0 : Date.now();
}

function submitText() {
  const text = $('text').value;
  if (!text.trim() || !canSend()) return;
  $('text').value = '';
  typedAt = 0;                  // the server ends the typing itself when it delivers the message
  fitText();
  sendText(text);
}

function leaveThread() {
  if (typedAt) transmit({ type: 'typing', threadId: state.thread, typing: false });
  typedAt = 0;
  if (state.thread) transmit({ type: 'leave_thread', threadId: state.thread });
  state.joined.delete(state.thread);
  state.typing.clear();
}

function goToThread(thread) {
  if (thread !== state.thread) {
    leaveThread();
    const already = state.joined.has(thread);   // the server subscribes both users of a new conversation
    Object.assign(state, { thread, recipient: '', confirmed: already, refused: false });
    if (!already) transmit({ type: 'join_thread', threadId: thread });
  }
  dropNotice('thread ' + thread);
  saveSession();
  drawAll();
}

function startConversation(recipient) {
  if (!recipient) return;
  $('recipient').value = '';
  openSettings(false);
  leaveThread();
  Object.assign(state, { thread: '', recipient, confirmed: false, refused: false });
  drawAll();
  $('text').focus();
}

/** Connects again, because a connection has one user. */
function switchUser(user) {
  leaveCalls();
  Object.assign(state, { user, messages: [], unread: 0, confirmed: false, refused: false });
  for (const set of [state.joined, state.online, state.typing]) set.clear();
  $('notices').replaceChildren();
  attempt = 0;
  connect();
}

function applySettings() {
  const user = $('user').value.trim(), thread = $('thread').value.trim(), token = $('token').value.trim();
  const newToken = token !== state.token;
  state.token = token;
  if (user && user !== state.user) {
    if (thread) Object.assign(state, { thread, recipient: '' });
    switchUser(user);
  } else {
    if (thread) goToThread(thread);
    if (!isOpen()) { attempt = 0; connect(); } else if (newToken) identify();
  }
  saveSession();
  openSettings(false);
  drawAll();
}

/** A reload keeps its user and thread. A duplicated tab does not: it should become another user. */
const STORAGE_KEY = 'buddyline-try-page';
function saveSession() {
  try { sessionStorage.setItem(STORAGE_KEY, JSON.stringify({ user: state.user, thread: state.thread })); } catch { /* storage is off */ }
}
function loadSession() {
  if (performance.getEntriesByType('navigation')[0]?.type !== 'reload') return {};
  try { return JSON.parse(sessionStorage.getItem(STORAGE_KEY)) || {}; } catch { return {}; }
}

