// Checks calls between real browsers: two and three pages ring, talk and exchange video through the server.
//   npm install --no-package-lock; node calls.mjs [baseUrl=http://127.0.0.1:8080] [outDir=./shots]
// Has the same requirements as check.mjs, and needs a server with --ring-lasts 6s, because one check waits until a
// call has stopped ringing. The media are real: Chromium's test picture and tone, over addresses of this machine.
import { assert, base, bubble, check, finish, joined, launch, listenTo, newContext as contextOf, open, part, run, say, shot, text } from './support.mjs';

const browser = await launch('--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
  '--disable-features=WebRtcHideLocalIpsWithMdns', '--allow-loopback-in-peer-connection', '--autoplay-policy=no-user-gesture-required');
const newContext = async (scheme = 'light', view = 'desktop', more = {}) => {
  const context = await contextOf(browser, scheme, view, { permissions: ['camera', 'microphone'], ...more });
  context.setDefaultTimeout(15000);
  return context;
};

let number = 0;
const newThread = () => String(run * 100 + number++);

/** Counts the received packets and decoded frames, by the user who sent them. */
const arrived = page => page.evaluate(async () => {
  const sums = {};
  for (const [user, link] of calls.current?.links ?? []) {
    const sum = sums[user] = { audio: 0, video: 0, frames: 0 };
    for (const one of (await link.pc.getStats()).values()) {
      if (one.type !== 'inbound-rtp') continue;
      sum[one.kind] += one.packetsReceived;
      sum.frames += one.framesDecoded ?? 0;
    }
  }
  return sums;
});

/** Waits until media flow: between two readings, every counter of each user has grown. */
async function flows(page, users, { video = true } = {}) {
  const grows = (before, after) => users.every(user => before[user] && after[user]
    && after[user].audio > before[user].audio + 5 && (!video || (after[user].video > before[user].video && after[user].frames > before[user].frames + 2)));
  let before = await arrived(page), after = before;
  for (let i = 0; i < 20; i++) {
    await page.waitForTimeout(700);
    after = await arrived(page);
    if (grows(before, after)) return;
    before = after;
  }
  throw new Error(`no media from ${users}: ${JSON.stringify(after)}`);
}

const ended = (page, pattern) => text(page, '.notice', pattern);
const rings = page => page.locator('.ring').first().waitFor();
const quiet = page => page.waitForFunction(() => !document.querySelector('.ring'));
const inCall = page => page.waitForFunction(() => calls.current?.stage === 'active');
const noCall = page => page.waitForFunction(() => !calls.current);
const accept = page => page.click('.ring .main');
const sees = (page, count) => page.waitForFunction(count => {
  const videos = [...document.querySelectorAll('#tiles .other.seen video')];
  return videos.length === count && videos.every(video => video.videoWidth > 0 && video.currentTime > 0);
}, count);

/** Opens two pages of different users in a new thread. */
async function pair(a, b, context) {
  context ||= await newContext();
  const thread = newThread();
  const one = await open(context, `?user=${a}&thread=${thread}`), two = await open(context, `?user=${b}&thread=${thread}`);
  await joined(one); await joined(two);
  await one.evaluate(user => startConversation(user), String(b)); // each with the other, whatever other users are online
  await two.evaluate(user => startConversation(user), String(a));
  await one.waitForFunction(() => !document.getElementById('videoCall').disabled);
  return { context, one, two };
}

async function videoCall() {
  const { context, one, two } = await pair(11, 12);
  await check('a video call rings, is accepted, and picture and sound flow both ways', async () => {
    await one.click('#videoCall'); await rings(two);
    await text(one, '#callStatus', 'Ringing');
    assert((await two.title()).startsWith('User 11 is calling'), 'the title is ' + await two.title());
    await accept(two); await inCall(one); await inCall(two);
    await flows(one, ['12']); await flows(two, ['11']); await sees(one, 1); await sees(two, 1);
    await text(one, '#callStatus', /^0:\d\d$/);
  });
  await check('a muted microphone keeps its track, which is silent', async () => {
    await one.click('#mute'); await text(one, '#mute', 'Unmute');
    assert(await one.evaluate(() => calls.current.mic.enabled === false), 'the track still records');
    await one.click('#mute'); await text(one, '#mute', /^Mute$/);
  });
  await check('without a camera the avatar is shown, and the picture returns with the camera', async () => {
    await one.click('#camera'); await two.waitForFunction(() => !document.querySelector('#tiles .other.seen'));
    assert(await one.isHidden('#me'), 'the own picture is still shown');
    await flows(two, ['11'], { video: false });
    await one.click('#camera'); await sees(two, 1); await flows(two, ['11']);
  });
  await check('hanging up ends the call for both, with a notice', async () => {
    await two.click('#hangUp'); await ended(one, /User 12 hung up\. The call lasted 0:\d\d/); await noCall(one); await noCall(two);
    assert(await one.isHidden('#call') && await two.isHidden('#call'), 'the call is still on the page');
    const tracks = await one.evaluate(() => document.querySelector('#ownVideo').srcObject);
    assert(tracks === null, 'the camera is still shown');
  });
  await check('closing the page hangs up', async () => {
    await one.click('#videoCall'); await rings(two); await accept(two); await inCall(one); await inCall(two);
    await two.goto('about:blank'); await ended(one, 'User 12 hung up');
  });
  await context.close();
}

async function audioCall() {
  const { context, one, two } = await pair(13, 14);
  await check('an audio call has sound and no picture, until a camera is switched on', async () => {
    await one.click('#audioCall'); await rings(two); await text(two, '.ring', 'Audio call'); await accept(two);
    await inCall(one); await inCall(two); await flows(one, ['14'], { video: false }); await flows(two, ['13'], { video: false });
    assert((await arrived(one))['14'].video === 0, 'a picture came');
    await two.click('#camera'); await sees(one, 1); await flows(one, ['14']);
    await one.click('#camera'); await sees(two, 1); await flows(two, ['13']);
    await one.click('#hangUp'); await ended(two, 'User 13 hung up');
  });
  await check('a video call can be accepted with sound only', async () => {
    await one.click('#videoCall'); await rings(two); await two.click('.ring button:has-text("Audio only")');
    await inCall(one); await sees(two, 1); await flows(two, ['13']); await flows(one, ['14'], { video: false });
    assert(await one.locator('#tiles .other.seen').count() === 0, 'a picture is shown');
    await one.click('#hangUp'); await noCall(two);
  });
  await context.close();
}

async function endings() {
  const { context, one, two } = await pair(15, 16);
  await check('declining ends the call', async () => {
    await one.click('#audioCall'); await rings(two); await two.click('.ring .stop'); await quiet(two);
    await ended(one, 'User 16 declined the call.'); await noCall(one);
  });
  await check('cancelling stops the ringing, and the callee gets a missed call', async () => {
    await one.click('#audioCall'); await rings(two); await text(one, '#hangUp', 'Cancel'); await one.click('#hangUp');
    await quiet(two); await ended(two, 'Missed call: User 15 gave up'); await noCall(one);
  });
  await check('without an answer, both get a notice after the ring time', async () => {
    await one.click('#audioCall'); await rings(two);
    await ended(one, 'User 16 did not answer.'); await ended(two, 'Missed call from user 15.'); await quiet(two); await noCall(one);
  });
  await check('the notice of a missed call has a button that calls back', async () => {
    await two.click('.notice button:has-text("Call back")'); await rings(one); await accept(one); await inCall(two); await flows(two, ['15'], { video: false });
    await two.click('#hangUp'); await noCall(one);
  });
  await check('calling a user whose call is ringing accepts that call', async () => {
    await one.click('#audioCall'); await rings(two); await two.click('#videoCall'); await inCall(one); await flows(one, ['16']);
    assert(await two.evaluate(() => !calls.current.caller), 'a second call was made');
    await two.click('#hangUp'); await noCall(one);
  });
  await check('declining during another call shows busy to the caller', async () => {
    const third = await open(context, '?user=17&thread=' + newThread()); await joined(third);
    await third.evaluate(() => startConversation('16'));
    await one.click('#audioCall'); await rings(two); await accept(two); await inCall(one);
    await third.click('#audioCall'); await text(two, '.ring', 'Accepting ends this call'); await two.click('.ring .stop');
    await ended(third, 'User 16 is in another call.'); await inCall(two);
    await third.click('#audioCall'); await rings(two); await accept(two); await inCall(third); await ended(one, 'User 16 hung up');
    await third.close(); await noCall(two); await ended(two, 'User 17 hung up');
  });
  await check('an offline callee is reported, and the call rings when they connect', async () => {
    await one.evaluate(() => startConversation('18'));
    await one.click('#audioCall'); await text(one, '#callStatus', 'Not online now');
    const late = await open(context, '?user=18&thread=' + newThread()); await rings(late); await text(one, '#callStatus', 'Ringing');
    await accept(late); await inCall(one); await flows(late, ['15'], { video: false });
    await late.click('#hangUp'); await noCall(one); await late.close();
  });
  await check('a call that ends while the caller waits for the camera leaves no track open', async () => {
    await two.evaluate(() => { const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = async want => { const stream = await real(want); window.opened = stream; await new Promise(wake => { window.wake = wake; }); return stream; }; });
    await two.click('#videoCall'); await two.waitForFunction(() => window.wake); await two.click('#hangUp');
    await two.evaluate(() => window.wake());
    await two.waitForFunction(() => window.opened.getTracks().every(track => track.readyState === 'ended'));
  });
  await context.close();
}

async function devices() {
  const { context, one, two } = await pair(21, 22);
  await check('a second device stops ringing when the first answers', async () => {
    const second = await open(context, '?user=22&thread=' + newThread()); await joined(second);
    await one.click('#videoCall'); await rings(two); await rings(second);
    await accept(two); await quiet(second); await ended(second, 'Answered on another device.');
    await inCall(one); await flows(one, ['22']); await flows(two, ['21']);
    assert(await second.isHidden('#call'), 'the second device shows a call');
    await one.click('#hangUp'); await ended(two, 'User 21 hung up');
    assert(await second.locator('.notice').count() === 1, 'the second device got further notices');
  });
  await context.close();
}

async function glare() {
  for (const [a, b] of [[31, 32], [34, 33]]) {
    const { context, one, two } = await pair(a, b);
    await check(`${a} and ${b} call each other at once: one call, and neither page asks its user`, async () => {
      await Promise.all([one, two].map(page => page.evaluate(() => { window.asked = false; new MutationObserver(() => { window.asked ||= Boolean(document.querySelector('.ring')); }).observe(document.getElementById('rings'), { childList: true }); })));
      const at = Date.now() + 500;
      await Promise.all([one, two].map(page => page.evaluate(at => { setTimeout(() => document.getElementById('videoCall').click(), at - Date.now()); }, at)));
      await inCall(one); await inCall(two); await flows(one, [String(b)]); await flows(two, [String(a)]);
      const [first, second] = await Promise.all([one, two].map(page => page.evaluate(() => ({ id: calls.current.id, caller: calls.current.caller, asked: window.asked }))));
      assert(first.id === second.id, 'two calls'); assert(first.caller !== second.caller, 'both called'); assert(!first.asked && !second.asked, 'a page asked its user');
      await one.click('#hangUp'); await noCall(two);
    });
    await context.close();
  }
}

/** Opens a page whose socket the test can close and keep closed. */
async function cuttable(context, query) {
  const page = listenTo(await context.newPage()), line = { down: false, cut: null };
  await page.routeWebSocket(/.*/, ws => {
    if (line.down) { ws.close({ code: 1013, reason: 'down' }); return; }
    const server = ws.connectToServer();
    // With half, only the page's side is closed, and the server still sees a connection, as when a phone changes networks.
    line.cut = async (half = false) => { line.down = true; if (!half) await server.close(); await ws.close({ code: 1012 }); };
  });
  await page.goto(base + '/' + query); await joined(page);
  return { page, line };
}

const comeBack = page => page.evaluate(() => { if (!isOpen()) connect(); });

async function lostSocket() {
  for (const cut of ['the caller', 'the callee']) {
    const context = await newContext(), thread = newThread();
    const a = await cuttable(context, `?user=41&thread=${thread}`), b = await cuttable(context, `?user=42&thread=${thread}`);
    await a.page.evaluate(() => startConversation('42')); await b.page.evaluate(() => startConversation('41'));
    const lost = cut === 'the caller' ? a : b, other = lost === a ? b : a, otherUser = lost === a ? '42' : '41', lostUser = lost === a ? '41' : '42';
    await check(`${cut} loses the socket in a call: the media go on, the call is resumed and renegotiated`, async () => {
      await a.page.click('#videoCall'); await rings(b.page); await accept(b.page); await inCall(a.page); await flows(a.page, ['42']);
      const ufrag = page => page.evaluate(() => [...calls.current.links.values()][0].pc.localDescription.sdp.match(/ice-ufrag:(\S+)/)[1]);
      const before = [await ufrag(a.page), await ufrag(b.page)];
      await lost.line.cut();
      await text(lost.page, '#callStatus', 'no connection to the server');
      await flows(lost.page, [otherUser]); await flows(other.page, [lostUser]);
      await lost.page.click('#camera');                       // causes an offer that the page cannot send now
      lost.line.down = false; await comeBack(lost.page);
      await lost.page.waitForFunction(() => calls.current?.lost === false);
      await lost.page.waitForFunction(([old]) => [...calls.current.links.values()][0].pc.localDescription.sdp.match(/ice-ufrag:(\S+)/)[1] !== old, [before[lost === a ? 0 : 1]]);
      await other.page.waitForFunction(() => !document.querySelector('#tiles .other.seen'));
      await lost.page.click('#camera'); await sees(other.page, 1);
      await flows(lost.page, [otherUser]); await flows(other.page, [lostUser]);
      assert(before.join() !== [await ufrag(a.page), await ufrag(b.page)].join(), 'the connection was not renewed');
      assert(await a.page.evaluate(() => calls.current.stage) === 'active', 'the call is not active');
    });
    await check(`${cut} hangs up without a socket: the other side gets the end after the reconnect`, async () => {
      await lost.line.cut(lost === a); await text(lost.page, '#callStatus', 'no connection');
      await lost.page.click('#hangUp'); lost.line.down = false; await comeBack(lost.page);
      await ended(other.page, `User ${lostUser} hung up`); await noCall(other.page);
      assert(await lost.page.locator('.notice.bad code').count() === 0, 'an error is shown');
    });
    await context.close();
  }
}

async function group() {
  const context = await newContext(), thread = newThread();
  const pages = [];
  for (const user of [51, 52, 53]) { const page = await open(context, `?user=${user}&thread=${thread}`); await joined(page); pages.push(page); }
  const [one, two, three] = pages;
  await check('the list calls everyone in the thread, with the keyboard', async () => {
    await one.waitForFunction(() => state.online.size >= 3);
    await one.focus('#videoCall'); await one.keyboard.press('Enter'); await one.locator('#callees').waitFor();
    await one.keyboard.press('Escape'); assert(await one.isHidden('#callees'), 'Escape leaves the list');
    await one.keyboard.press('Enter'); await text(one, '#callees button:focus', 'Everyone'); await one.keyboard.press('Enter');
    await rings(two); await rings(three); await text(two, '.ring', 'Group call');
  });
  await check('a group call of three: each sees the two others', async () => {
    await accept(two); await accept(three);
    for (const [page, users] of [[one, ['52', '53']], [two, ['51', '53']], [three, ['51', '52']]]) { await sees(page, 2); await flows(page, users); }
  });
  await check('one leaves, and the others stay in the call', async () => {
    await two.click('#hangUp'); await sees(one, 1); await sees(three, 1); await flows(one, ['53']);
    await one.click('#hangUp'); await noCall(two);
  });
  await context.close();
}

async function missingDevices() {
  const context = await newContext();
  const thread = newThread();
  const one = await open(context, `?user=61&thread=${thread}`), two = await open(context, `?user=62&thread=${thread}`);
  await joined(one); await joined(two); await two.evaluate(() => startConversation('61'));
  await check('without a camera, a notice appears and the call has sound only', async () => {
    await two.evaluate(() => { const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = want => want.video ? Promise.reject(new DOMException('', 'NotFoundError')) : real(want); });
    await two.click('#videoCall'); await text(two, '.notice', 'No camera: none was found.'); await rings(one); await accept(one);
    await inCall(two); await sees(two, 1); await flows(one, ['62'], { video: false }); await flows(two, ['61']); await two.click('#hangUp'); await noCall(one);
  });
  await check('calling everyone in a thread without other users is an error', async () => {
    const three = await open(context, '?user=63&thread=' + newThread()); await joined(three); await three.waitForFunction(() => state.online.size > 2);
    await three.click('#audioCall'); await three.click('#callees button:has-text("Everyone")'); await text(three, '.notice.bad', 'recipient_offline'); await noCall(three);
    await three.close();
  });
  await check('without permission, a notice appears, and the page still receives picture and sound', async () => {
    await two.evaluate(() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError')); });
    await two.click('#videoCall'); await text(two, '.notice', 'it is not allowed for this page'); await rings(one); await accept(one);
    await inCall(two); await sees(two, 1); await flows(two, ['61']); assert(await two.isDisabled('#mute'), 'the mute button is enabled without a microphone');
    await one.click('#hangUp'); await noCall(two);
    await one.evaluate(() => startConversation('62'));
    await one.click('#videoCall'); await rings(two); await accept(two); await inCall(two); await sees(two, 1); await flows(two, ['61']);
    await one.click('#hangUp'); await noCall(two);
  });
  await context.close();
}

/** Passes frames of the server to a page directly: these checks need no real call. */
async function serverFrames() {
  const context = await newContext();
  const page = await open(context, `?user=71&thread=${newThread()}`); await joined(page);
  const hear = frame => page.evaluate(text => received(text), JSON.stringify(frame));
  await check('a server without ice_servers causes no notice', async () => {
    await page.waitForTimeout(300);
    await hear({ type: 'error', code: 'unknown_type', message: 'The type "ice_servers" is not known.', clientId: 'ice-servers' });
    assert(await page.locator('.notice').count() === 0, await page.textContent('#notices'));
  });
  await check('the page uses relays and does not show their password', async () => {
    await hear({ type: 'ice_servers', iceServers: [{ urls: 'turn:127.0.0.1:9', username: 'u', credential: 'relay-secret' }], ttl: 600 });
    await page.evaluate(() => { startConversation('79'); });
    await page.click('#audioCall'); await text(page, '#callStatus', 'Not online now');
    const used = await page.evaluate(() => [...calls.current.links.values()][0].pc.getConfiguration().iceServers[0].credential);
    assert(used === 'relay-secret', 'the relay is not used');
    assert(!(await page.textContent('#lines')).includes('relay-secret'), 'the password is in the frames panel');
    await page.click('#hangUp');
  });
  const REASONS = { hangup: 'hung up', rejected: 'declined', cancelled: 'gave up before you answered', busy: 'in another call', no_answer: 'Missed call',
    answered_elsewhere: 'Answered on another device.', disconnected: 'connection to user 72 was lost', failed: 'could not connect to each other' };
  await check('each reason for the end of a call has its own notice', async () => {
    for (const [reason, words] of Object.entries(REASONS)) {
      await hear({ type: 'call_initiated', callId: reason, senderId: '72', recipientId: '71', userId: '72' }); await rings(page);
      await hear({ type: 'call_ended', callId: reason, reason }); await text(page, '.notice', words); await quiet(page);
      await page.click('.notice .close');
    }
    await hear({ type: 'call_initiated', callId: 'g', senderId: '72', recipientId: '71', userId: '72' }); await rings(page);
    await hear({ type: 'call_ended', callId: 'g', reason: 'glare', continuesAs: 'h' }); await quiet(page);
    assert(await page.locator('.notice').count() === 0, 'there is a notice for the replaced call');
    await hear({ type: 'offer', callId: 'g', senderId: '72', recipientId: '71', userId: '72', offer: { type: 'offer', sdp: 'v=0' } });
    assert(await page.locator('.ring').count() === 0, 'a late frame of an ended call rings');
  });
  await check('an offer alone rings, as apps without call_initiated send it', async () => {
    await hear({ type: 'offer', callId: 'o', senderId: '72', recipientId: '71', offer: { type: 'offer', sdp: 'v=0' } }); await rings(page);
    await hear({ type: 'call_ended', callId: 'o', reason: 'cancelled' }); await quiet(page);
  });
  await check('at most eight calls ring', async () => {
    for (let i = 0; i < 20; i++) await hear({ type: 'call_initiated', callId: 'many' + i, senderId: '72', recipientId: '71', userId: '72' });
    assert(await page.locator('.ring').count() === 8, await page.locator('.ring').count() + ' ring');
  });
  await context.close();
}

// ------------------------------------------------------------------ screenshots

async function screenshots() {
  for (const scheme of ['light', 'dark']) for (const view of ['desktop', 'phone']) await check(`screenshots ${scheme} ${view}`, async () => {
    const name = `calls-${scheme}-${view}`, thread = newThread();
    const context = await newContext(scheme, view), others = await newContext('light', 'desktop');
    const a = await open(context, `?user=1&thread=${thread}`), b = await open(others, `?user=2&thread=${thread}`);
    await joined(a); await joined(b); await a.waitForFunction(() => state.online.size === 2); await b.waitForFunction(() => state.online.size === 2);
    await say(b, 'Do you have a minute?'); await bubble(a, 'a minute'); await say(a, 'Sure, call me.'); await bubble(b, 'call me');
    await a.click('#videoCall'); await rings(b); await text(a, '#callStatus', 'Ringing'); await shot(a, name + '-outgoing'); await b.click('.ring .stop');
    await ended(a, 'declined'); await shot(a, name + '-ended');
    await a.click('#audioCall'); await rings(b); await accept(b); await inCall(a); await flows(a, ['2'], { video: false }); await shot(a, name + '-audio');
    await a.click('#hangUp'); await noCall(b);
    await b.click('#videoCall'); await rings(a); await shot(a, name + '-incoming'); await accept(a); await inCall(a); await sees(a, 1); await shot(a, name + '-video');
    await a.click('#framesButton'); await shot(a, name + '-video-frames'); await a.click('#framesButton');
    if (view === 'phone') { await a.setViewportSize({ width: 844, height: 390 }); await shot(a, name + '-video-landscape'); await a.setViewportSize({ width: 390, height: 844 }); }
    const c = await open(others, `?user=3&thread=${thread}`); await joined(c); await c.evaluate(() => startConversation('1'));
    await c.click('#audioCall'); await rings(a); await shot(a, name + '-second-rings'); await c.click('#hangUp'); await quiet(a);
    await c.close(); await b.click('#hangUp'); await noCall(a);
    const d = await open(others, `?user=4&thread=${thread}`); await joined(d); await a.waitForFunction(() => state.online.has('4'));
    await a.click('#videoCall'); await text(a, '#callees', 'Everyone'); const box = await a.locator('#callees').boundingBox(); assert(box.x >= 0 && box.x + box.width <= a.viewportSize().width, 'the list is cut off'); await shot(a, name + '-whom'); await a.click('#callees button:has-text("Everyone")');
    await rings(b); await shot(b, 'calls-incoming-group'); await accept(b); await rings(d); await accept(d); await sees(a, 2); await shot(a, name + '-group');
    await d.click('#camera'); await sees(a, 1); await shot(a, name + '-group-face'); await a.click('#hangUp');
    await context.close(); await others.close();
  });
}

const parts = { videoCall, audioCall, endings, devices, glare, lostSocket, group, missingDevices, serverFrames, screenshots };
for (const [name, action] of Object.entries(parts)) if (!process.argv[4] || process.argv[4] === name) await part(name, action);
await finish(browser);
