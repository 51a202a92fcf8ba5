// ---------------------------------------------------------------- actions

/** A name for a frame. getRandomValues, as randomUUID is missing on plain http outside localhost. */
function newClientId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), byte => byte.toString(16).padStart(2, '0')).join('');
}

function canSend() {
  if (isOpen() && !nobodyChosen()) return true;
  notice('offline', 'bad', ['', 'Not connected just now. Your text stays here; send it when the page is back.']);
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
 * After a lost connection the same clientId asks for the outcome the first try had, so nothing is stored twice.
 * After an error that outcome is known, and only a new clientId makes it a new try.
 */
function sendAgain(item) {
  if (!canSend()) return;
  if (item.code !== 'connection_lost') item.clientId = newClientId();
  transmitItem(item);
}

function takeBack(item) {
  state.messages = state.messages.filter(other => other !== item);
  item.node.remove();
  $('text').value = [item.text, $('text').value].filter(Boolean).join('\n');
  fitText();
  $('text').focus();
  drawEmpty();
}

let typedAt = 0;

function tellTyping() {
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
  typedAt = 0;                  // the server ends the typing itself when the message goes out
  fitText();
  sendText(text);
}

function leaveHere() {
  if (typedAt) transmit({ type: 'typing', threadId: state.thread, typing: false });
  typedAt = 0;
  if (state.thread) transmit({ type: 'leave_thread', threadId: state.thread });
  state.joined.delete(state.thread);
  state.typing.clear();
}

function goToThread(thread) {
  if (thread !== state.thread) {
    leaveHere();
    const already = state.joined.has(thread);   // the server joins both sides of a new conversation
    Object.assign(state, { thread, recipient: '', confirmed: already, refused: false });
    if (!already) transmit({ type: 'join_thread', threadId: thread });
  }
  dropNotice('thread ' + thread);
  remember();
  drawAll();
}

function startConversation(recipient) {
  if (!recipient) return;
  $('recipient').value = '';
  openSettings(false);
  leaveHere();
  Object.assign(state, { thread: '', recipient, confirmed: false, refused: false });
  drawAll();
  $('text').focus();
}

/** Another user means another connection: one connection is one user, also for the server. */
function becomeUser(user) {
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
    becomeUser(user);
  } else {
    if (thread) goToThread(thread);
    if (!isOpen()) { attempt = 0; connect(); } else if (newToken) introduce();
  }
  remember();
  openSettings(false);
  drawAll();
}

/** A reload keeps its user and thread. A duplicated tab must not: it should be somebody else. */
const MEMORY = 'buddyline-try-page';
function remember() {
  try { sessionStorage.setItem(MEMORY, JSON.stringify({ user: state.user, thread: state.thread })); } catch { /* storage is off */ }
}
function recall() {
  if (performance.getEntriesByType('navigation')[0]?.type !== 'reload') return {};
  try { return JSON.parse(sessionStorage.getItem(MEMORY)) || {}; } catch { return {}; }
}

