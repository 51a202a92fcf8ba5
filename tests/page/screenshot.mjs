// Takes docs/images/try-it.png, the screenshot in README.md, from a server in open mode without a site.
//   npm install --no-package-lock; node screenshot.mjs http://127.0.0.1:8080 ../../docs/images
// Start a new server first: the page shows every user that is online and every message of the thread.
import { bubble, finish, joined, launch, newContext, open, say, shot, text } from './support.mjs';

const browser = await launch();
const context = await newContext(browser, 'light', 'desktop', { viewport: { width: 1120, height: 750 } });
const [one, two, three] = [await open(context, '?user=1&thread=12'), await open(context, '?user=2&thread=12'), await open(context, '?user=3&thread=12')];
for (const page of [one, two, three]) await joined(page);
const conversation = [
  [two, 'Hi! Is this the new chat server?'], [one, 'Yes. It is one binary, and this page is built in.'],
  [three, 'Is the group thread live too?'], [one, 'It is. All of us see each message, who is online and who is typing.'],
  [two, 'Can we call from here?'], [one, 'Yes: the two buttons at the top start an audio or a video call.'],
];
for (const [page, words] of conversation) { await say(page, words); await bubble(one, words); }
await one.bringToFront(); await one.click('#framesButton');
await two.locator('#text').pressSequentially('Great, I will try');
await text(one, '#typing', 'typing');
await shot(one, 'try-it');
await finish(browser);
