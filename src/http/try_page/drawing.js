// ---------------------------------------------------------------- drawing

/** el('p', {className: 'x'}, 'text', node): strings become text nodes, never markup. */
function el(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function button(text, action, className = '') {
  const node = el('button', { type: 'button', className }, text);
  node.addEventListener('click', action);
  return node;
}

function face(user) {
  let hue = 7;
  for (const letter of user) hue = (hue * 31 + letter.codePointAt(0) * 47) % 360;
  const node = el('span', { className: 'face', ariaHidden: 'true' }, user.slice(0, 3));
  node.style.setProperty('--hue', hue);
  return node;
}

function clip(text, most) {
  return text.length > most ? `${text.slice(0, most)}… (${text.length - most} more characters)` : text;
}

function clock(sentAt) {
  const date = new Date(sentAt);
  if (!sentAt || Number.isNaN(date.getTime())) return '';
  const time = date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString()} ${time}`;
}

function drawAll() {
  drawPlace();
  drawTyping();
  drawTitle();
  $('messages').replaceChildren();
  for (const item of state.messages) if (isInView(item)) drawMessage(item, true);
  drawEmpty();
}

function drawTitle() {
  const who = !hasUser() ? '' : `User ${state.user} · `;
  const ring = [...calls.rings.values()].find(isShown);
  document.title = (ring ? `User ${ring.from} is calling · ` : '') + (state.unread ? `(${state.unread}) ` : '') + who + 'buddyline';
}

let drawnPlace = '';
function drawPlace() {
  const where = state.thread ? `Thread ${state.thread}` : `To user ${state.recipient}`;
  const progress = !isOpen() ? 'not connected'
    : !state.thread ? 'new conversation'
    : state.confirmed ? `${state.online.size} online`
    : state.refused ? 'could not join' : 'joining…';
  $('title').textContent = where;
  $('subtitle').textContent = !hasUser() ? 'Looking for a free user…' : `User ${state.user} · ${progress}`;
  // Fields follow the state, but an unchanged state must not overwrite what the user is typing.
  const place = JSON.stringify([state.user, state.thread]);
  if (place !== drawnPlace) { $('user').value = state.user; $('thread').value = state.thread; drawnPlace = place; }
  $('send').disabled = !isOpen() || !hasUser();
  $('second').href = '?' + new URLSearchParams(state.thread ? { thread: state.thread } : {});
  drawCallButtons();
  onlineTimer ||= setTimeout(drawOnline, 100);   // a busy server may report hundreds of users a second
  drawTyping();
  drawEmpty();
}

let onlineTimer = 0;
const byNumber = new Intl.Collator(undefined, { numeric: true });
function drawOnline() {
  onlineTimer = 0;
  const users = [...state.online].sort(byNumber.compare);
  const rows = users.slice(0, MAX_LISTED).map(user => el('li', {}, face(user), user === state.user ? `${user} (you)` : user));
  if (users.length > MAX_LISTED) rows.push(el('li', {}, `and ${users.length - MAX_LISTED} more`));
  if (!rows.length) rows.push(el('li', { className: 'soft' }, isOpen() ? 'no users yet' : 'not connected'));
  $('online').replaceChildren(...rows);
}

function drawTyping() {
  const names = [...state.typing].slice(0, 3).join(', ');
  const rest = state.typing.size > 3 ? ' and others' : '';
  $('typing').textContent = !names ? '' : state.typing.size === 1 ? `User ${names} is typing…` : `Users ${names}${rest} are typing…`;
}

function drawEmpty() {
  $('empty').hidden = $('messages').childElementCount > 0;
  $('emptySteps').hidden = $('second').hidden = !state.thread;
  $('emptyTitle').textContent = !state.thread
    ? `Write the first message to user ${state.recipient}. The server creates the thread and this page opens it.`
    : !hasUser() ? 'Connecting…' : `You are user ${state.user} in thread ${state.thread}. No messages yet.`;
}

let atEnd = true;             // whether the reader is at the newest message; then the log follows
const toEnd = () => { $('log').scrollTop = $('log').scrollHeight; };
function scrolled() {
  const log = $('log');
  atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  if (atEnd) $('newer').hidden = true;
}

/** Redraws an item. A sent item moves above those that wait or failed. `follow` scrolls to the end, wherever the reader is. */
function drawMessage(item, follow = false) {
  const list = $('messages');
  const old = item.node, neighbour = old?.nextElementSibling;
  item.node = messageNode(item);
  if (old?.isConnected && item.status !== 'sent') old.replaceWith(item.node);
  else {
    old?.remove();
    list.insertBefore(item.node, item.status === 'sent' ? list.querySelector('.waiting, .failed') : null);
  }
  for (const node of [neighbour, item.node, item.node.nextElementSibling]) if (node) groupWithPrevious(node);
  drawEmpty();
  if (atEnd || follow) toEnd(); else if (item.status === 'sent') $('newer').hidden = false;
}

/** Consecutive messages of one author show the author once. */
function groupWithPrevious(node) {
  node.classList.toggle('follow', node.previousElementSibling?.dataset.sender === node.dataset.sender);
}

function messageNode(item) {
  const mine = item.sender === state.user;
  const bubble = el('div', { className: 'bubble' }, el('div', { className: 'text', dir: 'auto' }, clip(item.text, MAX_SHOWN_TEXT)));
  bubble.prepend(el('div', { className: mine ? 'sr' : 'author' }, mine ? 'You' : `User ${item.sender}`));
  if (item.status === 'sent') bubble.append(el('time', { className: 'when', dateTime: item.sentAt || '' }, clock(item.sentAt)));
  if (item.status === 'waiting') bubble.append(el('span', { className: 'when' }, 'sending…'));
  if (item.status === 'failed') bubble.append(...failure(item));
  const node = el('li', { className: `${item.status} ${mine ? 'mine' : ''}` }, face(item.sender), bubble);
  node.dataset.sender = item.sender;
  return node;
}

function failure(item) {
  const again = item.code === 'unknown_outcome' ? 'Send again anyway' : 'Try again';
  const doubt = item.code === 'unknown_outcome' ? ' It may have been stored all the same.' : '';
  return [
    el('p', { className: 'why' }, el('code', {}, item.code), ` ${item.error}${doubt}`),
    el('div', { className: 'acts' }, button(again, () => sendAgain(item)), button('Edit', () => editAgain(item))),
  ];
}

/** Shows one notice for each key: a repeated error replaces the earlier one instead of filling the screen. */
function notice(key, className, [code, text], [label, action] = []) {
  const node = el('div', { className: `notice ${className}` });
  const words = el('p', {}, clip(text, 500));
  if (code) words.prepend(el('code', {}, code), ' ');
  const close = button('×', () => node.remove(), 'close');
  close.ariaLabel = 'Dismiss';
  node.dataset.key = key;
  node.append(words, ...(label ? [button(label, action)] : []), close);
  dropNotice(key);
  $('notices').prepend(node);
  while ($('notices').childElementCount > MAX_NOTICES) $('notices').lastChild.remove();
  $(className === 'bad' ? 'urgent' : 'polite').textContent = `${code} ${text}`;
}

function dropNotice(key) {
  for (const node of [...$('notices').children]) if (node.dataset.key === key) node.remove();
}

/** Hides credentials in the frames panel, which others may see on the screen or in a screenshot. */
const hideSecrets = (key, value) => key === 'token' || key === 'credential' ? '(hidden)' : value;

function logFrame(direction, given) {
  const raw = typeof given === 'string' ? given : JSON.stringify(given, hideSecrets);
  const lines = $('lines');
  const parts = clip(raw, MAX_SHOWN_FRAME).split(/(?<=,)/).flatMap(part => [part, el('wbr')]);  // lines break after commas
  const line = el('li', { className: direction }, el('b', {}, direction), el('span', {}, ...parts));
  line.title = new Date().toLocaleTimeString();
  lines.prepend(line);
  while (lines.childElementCount > MAX_FRAMES) lines.lastChild.remove();
}

const LINK_TEXTS = { connecting: 'Connecting…', open: 'Connected', stopped: 'Not connected' };

function showLink(name) {
  if (name !== $('link').dataset.state) $('polite').textContent = LINK_TEXTS[name] || 'Connection lost';
  $('link').dataset.state = name;
  $('retry').hidden = name !== 'waiting' && name !== 'stopped';
  drawCountdown();
}

function drawCountdown() {
  const name = $('link').dataset.state;
  const seconds = Math.max(1, Math.ceil((retryAt - Date.now()) / 1000));
  $('linkText').textContent = LINK_TEXTS[name] || `Next try in ${seconds} s`;
}

function openSettings(open) {
  $('side').classList.toggle('open', open);
  $('settings').ariaExpanded = String(open);
}

function openFrames(open) {
  $('frames').hidden = !open;
  $('app').classList.toggle('wide-frames', open);
  $('framesButton').ariaExpanded = String(open);
}

function fitText() {
  const box = $('text');
  box.style.height = 'auto';
  box.style.height = box.scrollHeight + 2 + 'px';
}

