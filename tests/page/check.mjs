// Checks the try-it page in a headless Chromium and takes its screenshots.
//   npm install --no-package-lock; node check.mjs [baseUrl=http://127.0.0.1:8080] [outDir=./shots]
// Needs playwright-core and a Chromium (CHROMIUM=/path, default /usr/bin/chromium), and a server in
// open trust without a site. Prints one line per check; the exit code is the number of failed checks.
import { VIEWS, assert, base, bubble, check, finish, joined, launch, newContext as contextOf, open, part, run, say, shot, text } from './support.mjs';

const IMG = '<img src=x onerror=alert(1)>';
const browser = await launch();
const newContext = (scheme, view) => contextOf(browser, scheme, view);
const noTyping = page => page.waitForFunction(() => document.getElementById('typing').textContent === '');

// ------------------------------------------------------------------ behaviour

async function behaviour() {
  const context = await newContext('light', 'desktop');
  const thread = String(run * 10);
  let a, b;

  await check('a second tab comes up as another user', async () => {
    a = await open(context, `?thread=${thread}`); await joined(a);
    b = await open(context, `?thread=${thread}`); await joined(b);
    const [one, two] = [await a.inputValue('#user'), await b.inputValue('#user')];
    assert(one && two && one !== two, `users ${one} and ${two}`);
    assert((await a.title()).includes(`User ${one} `), 'the title is ' + await a.title());
  });
  const two = await b.inputValue('#user');
  await check('each sees the other online', async () => {
    await text(a, '#online li', new RegExp(`^\\D*${two}`)); await text(b, '#online li', '(you)');
  });
  await check('a message arrives, with its time', async () => {
    await say(a, 'Hello from the first tab'); await bubble(a, 'Hello from the first tab'); await bubble(b, 'Hello from the first tab');
    assert(/\d/.test(await b.locator('#messages li .when').last().textContent()), 'no time');
    assert(await a.locator('#messages li').count() === 1, 'shown twice');
  });
  await check('markup is shown as text', async () => {
    await say(b, IMG); await bubble(a, IMG);
    assert(await a.locator('#messages img').count() === 0, 'an img element was made');
  });
  await check('Shift+Enter starts a new line', async () => {
    await a.fill('#text', 'one'); await a.press('#text', 'Shift+Enter'); await a.locator('#text').pressSequentially('two'); await a.press('#text', 'Enter');
    await bubble(b, /one\ntwo/);
  });
  await check('unread messages are counted in the title', async () => {
    await b.evaluate(() => { Object.defineProperty(document, 'hasFocus', { configurable: true, value: () => false }); });
    await say(a, 'Are you there?'); await b.waitForFunction(() => document.title.startsWith('(1) User'));
    await b.evaluate(() => { delete document.hasFocus; dispatchEvent(new Event('focus')); });
  });
  await check('typing appears, ends by itself after a pause, and at once when the box is emptied', async () => {
    await a.locator('#text').pressSequentially('abc'); await text(b, '#typing', 'is typing');
    assert(await a.locator('#typing').textContent() === '', 'the typist sees their own typing');
    await noTyping(b);
    await a.locator('#text').pressSequentially('d'); await text(b, '#typing', 'is typing');
    const start = Date.now(); await a.fill('#text', ''); await noTyping(b);
    assert(Date.now() - start < 1500, 'took ' + (Date.now() - start) + ' ms');
  });
  await check('an error is shown, and dismissed', async () => {
    await a.fill('#thread', 'é'.repeat(40)); await a.click('#identity button'); // 80 bytes: longer than an id may be
    await text(a, '.notice.bad', /\w/); await a.click('.notice.bad .close');
    assert(await a.locator('.notice.bad').count() === 0, 'still there');
  });
  await check('a refused message shows its text and code, and can be edited', async () => {
    await say(a, 'This one is refused'); await a.locator('#messages li.failed code').waitFor();
    await a.click('#messages li.failed .acts button:has-text("Edit")');
    assert(await a.inputValue('#text') === 'This one is refused', 'the text did not come back');
    await a.fill('#text', ''); await a.fill('#thread', thread); await a.click('#identity button'); await joined(a);
  });
  await check('a new conversation opens for both sides', async () => {
    await a.fill('#recipient', two); await a.click('#start button'); await text(a, '#title', 'To user ' + two);
    await say(a, 'Something new'); await text(a, '#title', /^Thread /); await bubble(a, 'Something new');
    await b.click('.notice button:has-text("Go there")'); await bubble(b, 'Something new');
    assert(await a.textContent('#title') === await b.textContent('#title'), 'two different threads');
  });
  await check('the token is hidden in the frames panel and stored nowhere', async () => {
    await a.click('#framesButton'); await a.fill('#token', 'very-secret-token'); await a.click('#identity button');
    await text(a, '#lines li.out', '"token":"(hidden)"');
    const leaks = await a.evaluate(() => [document.getElementById('lines').textContent, location.href, JSON.stringify(sessionStorage), JSON.stringify(localStorage)].join().includes('very-secret-token'));
    assert(!leaks, 'the token leaked');
  });
  await check('a user who closes the page goes offline', async () => {
    await b.close(); await a.waitForFunction(() => document.querySelectorAll('#online li').length === 1, null, { timeout: 12000 });
  });
  await context.close();
}

/** Closes the page's socket and refuses new ones for a while, independently of the server. */
async function reconnect() {
  const context = await newContext('light', 'desktop');
  const page = await context.newPage();
  let down = false, live = null, tries = 0;
  await page.routeWebSocket(/.*/, ws => {
    tries++;
    if (down) { ws.close({ code: 1013, reason: 'down' }); return; }
    ws.connectToServer(); live = ws;
  });
  await page.goto(`${base}/?user=8&thread=${run * 10 + 9}`); await joined(page);
  const other = await open(context, `?user=9&thread=${run * 10 + 9}`); await joined(other);
  await check('a lost connection is shown, and the page reconnects', async () => {
    down = true; await live.close({ code: 1012 });
    await page.waitForSelector('#link[data-state=waiting]'); assert(await page.isDisabled('#send'), 'sending is still offered');
    await page.fill('#text', 'typed while away'); await page.press('#text', 'Enter'); await text(page, '.notice', 'Not connected');
    assert(await page.inputValue('#text') === 'typed while away', 'the text is gone');
    await page.waitForTimeout(2500); assert(tries >= 2 && tries <= 8, `${tries} tries`);
    await shot(page, 'light-desktop-reconnecting');
  });
  await check('after reconnecting, the page is in its thread as the same user', async () => {
    down = false; await page.waitForSelector('#link[data-state=open]'); await joined(page);
    assert(await page.locator('.notice').count() === 0, 'an outdated notice stays');
    await say(page, 'I am back'); await bubble(other, 'I am back'); await say(other, 'Welcome'); await bubble(page, 'Welcome');
  });
  await check('token_required opens the settings; a refused token stops the reconnecting', async () => {
    await page.evaluate(() => received(JSON.stringify({ type: 'error', code: 'token_required', message: 'A token is needed.', replyTo: 'user_connected' })));
    await text(page, '.notice.bad', 'token_required'); assert(await page.locator('#side.open').count() === 1, 'the settings stay closed');
    await live.close({ code: 4401 }); await page.waitForSelector('#link[data-state=stopped]'); await text(page, '.notice.bad', '4401');
    await page.waitForTimeout(1500); assert(await page.getAttribute('#link', 'data-state') === 'stopped', 'the page went on reconnecting');
    await page.click('#identity button'); await page.waitForSelector('#link[data-state=open]'); await joined(page);
  });
  await check('at most 500 messages and 200 frames stay in the page', async () => {
    const counts = await page.evaluate(() => {
      for (let i = 0; i < 700; i++) received(JSON.stringify({ type: 'message', threadId: state.thread, senderId: '9', message: 'x' + i, messageId: 1e9 + i }));
      return [document.querySelectorAll('#messages li').length, state.messages.length, document.querySelectorAll('#lines li').length];
    });
    assert(counts.join() === '500,500,200', counts.join());
  });
  await context.close();
}

// ------------------------------------------------------------------ screenshots

async function screenshots(scheme, view, number) {
  const context = await newContext(scheme, view);
  const thread = run * 10 + number, name = `${scheme}-${view}`;
  const a = await open(context, `?user=1&thread=${thread}`); await joined(a);
  const b = await open(context, `?user=2&thread=${thread}`); await joined(b);
  await text(a, '#subtitle', /[2-9] online/);
  await a.bringToFront();
  await shot(a, `${name}-empty`);
  if (view !== 'desktop') { await a.click('#settings'); await shot(a, `${name}-settings`); await a.click('#settings'); }

  const lines = [[b, 'Hi! Is this the new server?'], [a, 'It is. Open the frames panel, you can read along.'],
    [b, 'Nice.'], [b, 'What about long addresses? https://example.org/' + 'a-rather-long-path/'.repeat(6)], [a, IMG],
    [a, 'That one stays text,\nalso over two lines.'], [b, 'Grüße, and مرحبا too']];
  for (const [page, words] of lines) { await say(page, words); await bubble(a, words.split('\n')[0]); }
  await b.locator('#text').pressSequentially('I am');
  await text(a, '#typing', 'typing');
  await shot(a, `${name}-chat-typing`);
  await b.fill('#text', '');

  await a.click('#framesButton'); await shot(a, `${name}-frames`); await a.click('#framesButton');

  // A thread id of 80 bytes is refused twice: in the answer to join_thread, and in the bubble.
  if (view !== 'desktop') await a.click('#settings');
  await a.fill('#thread', 'é'.repeat(40)); await a.click('#identity button');
  await a.locator('.notice.bad').first().waitFor();
  await say(a, 'This thread does not exist, so this is refused.');
  await a.locator('#messages li.failed').waitFor();
  await shot(a, `${name}-error`);

  await a.fill('#text', 'A longer draft\nthat needs\nthree lines'); await a.focus('#text');
  if (view !== 'desktop') { await a.setViewportSize({ width: VIEWS[view].width, height: 420 }); await shot(a, `${name}-keyboard`); }
  await context.close();
}

await part('behaviour', behaviour);
await part('reconnect', reconnect);
let number = 1;
for (const scheme of ['light', 'dark']) for (const view of ['desktop', 'phone', 'narrow']) {
  if (scheme === 'dark' && view === 'narrow') continue;
  await check(`screenshots ${scheme} ${view}`, () => screenshots(scheme, view, number++));
}
await finish(browser);
