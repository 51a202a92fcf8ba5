// Takes the screenshots of docs/WORDPRESS.md from a site with BuddyBoss Platform 3.0 or later and the plugin.
//   npm --prefix ../page install --no-package-lock
//   SITE=http://127.0.0.1:8080 LOGIN=admin PASSWORD=... node screenshots.mjs ../../docs/images
import { createRequire } from 'node:module';

const { chromium } = createRequire(new URL('../page/', import.meta.url))('playwright-core');
const { SITE, LOGIN, PASSWORD } = process.env;
const folder = process.argv[2];

const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
const page = await browser.newPage({ viewport: { width: 1000, height: 800 } });

await page.goto(`${SITE}/wp-login.php`);
await page.fill('#user_login', LOGIN);
await page.fill('#user_pass', PASSWORD);
await page.click('#wp-submit');
await page.waitForLoadState('networkidle');

// The settings page, after the connection test. Notices of other plugins are not part of it.
await page.goto(`${SITE}/wp-admin/options-general.php?page=buddyline`);
await page.click('text=Test the connection');
await page.waitForSelector('#buddyline_test');
await page.addStyleTag({ content: '.notice, .update-nag { display: none !important }' });
await page.locator('#wpbody-content > .wrap').screenshot({ path: `${folder}/wordpress-settings.png` });

// The screen of the card among BuddyBoss's integrations.
await page.goto('about:blank');
await page.goto(`${SITE}/wp-admin/admin.php?page=bb-settings#/settings/buddyline`);
await page.addStyleTag({ content: '.notice, .bb-reg-banner-holder { display: none !important }' });
await page.waitForSelector('text=Internal address');
await page.waitForTimeout(1000);
const top = await page.locator('text=Back to Settings').boundingBox();
const end = await page.locator('text=See or roll the secret').boundingBox();
await page.screenshot({ path: `${folder}/wordpress-card.png`, fullPage: true, clip: { x: 160, y: top.y - 30, width: 840, height: end.y + end.height + 50 - top.y } });
await browser.close();
