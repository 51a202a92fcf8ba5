// ---------------------------------------------------------------- start

function addListeners() {
  const onSubmit = (id, action) => $(id).addEventListener('submit', event => { event.preventDefault(); action(); });
  const onClick = (id, action) => $(id).addEventListener('click', action);
  onSubmit('identity', applySettings);
  onSubmit('start', () => startConversation($('recipient').value.trim()));
  onSubmit('compose', () => { submitText(); $('text').focus(); });
  onClick('settings', () => openSettings(!$('side').classList.contains('open')));
  onClick('framesButton', () => openFrames($('frames').hidden));
  onClick('clearFrames', () => $('lines').replaceChildren());
  onClick('retry', connect);
  onClick('newer', toEnd);
  addCallListeners();

  $('text').addEventListener('input', () => { fitText(); sendTyping(); });
  $('text').addEventListener('keydown', event => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;  // isComposing: Enter selects a word of an input method
    event.preventDefault();
    submitText();
  });
  $('log').addEventListener('scroll', scrolled);
  // Keeps the last message visible when a phone's keyboard or a panel opens.
  new ResizeObserver(() => { if (atEnd && $('empty').hidden) toEnd(); }).observe($('log'));

  const seen = () => { if (!document.hidden && document.hasFocus()) { state.unread = 0; drawTitle(); } };
  addEventListener('focus', seen);
  document.addEventListener('visibilitychange', seen);
  const retryNow = () => { if (!socket && $('link').dataset.state === 'waiting') connect(); };
  addEventListener('online', retryNow);
  document.addEventListener('visibilitychange', () => document.hidden || retryNow());
  setInterval(() => { drawCountdown(); checkHeartbeat(); }, 1000);
}

/** ?user=2&thread=1 (or the same after #) fills in user and thread; &frames=1 opens the frames panel. */
function readUrl() {
  const given = Object.fromEntries([...new URLSearchParams(location.search), ...new URLSearchParams(location.hash.slice(1))]);
  const old = loadSession();
  state.user = given.user || old.user || '';
  state.thread = given.thread || old.thread || '1';
  openFrames(given.frames === '1');
}

readUrl();
addListeners();
drawAll();
connect();
