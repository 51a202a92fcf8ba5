// Shared by the checks of the try-it page: the browser, its pages, and the report.
import fs from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';

export const base = new URL(process.argv[2] || 'http://127.0.0.1:8080').origin;
const out = path.resolve(process.argv[3] || 'shots');
fs.mkdirSync(out, { recursive: true });

export const VIEWS = { desktop: { width: 1280, height: 800 }, phone: { width: 390, height: 844 }, narrow: { width: 360, height: 640 } };
export const run = Date.now() % 100000; // for thread numbers that no earlier run against the same server has used

export const launch = (...args) => chromium.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', ...args],
});

let failures = 0;
const complaints = [];

export async function check(name, action) {
  try { await action(); console.log('ok    ' + name); }
  catch (error) { failures++; console.log('FAIL  ' + name + '\n      ' + String(error.message).split('\n').slice(0, 4).join('\n      ')); }
}

/** Runs one part of the checks. An exception that ends the part counts as a failure as well. */
export const part = (name, action) => action().catch(error => { failures++; console.log(`FAIL  ${name} stopped: ${error.message}`); });

export function assert(condition, text) { if (!condition) throw new Error(text); }

export async function newContext(browser, scheme, view, more = {}) {
  const context = await browser.newContext({
    viewport: VIEWS[view], colorScheme: scheme, reducedMotion: 'reduce',
    ...(view === 'desktop' ? {} : { hasTouch: true, isMobile: true, deviceScaleFactor: 2 }), ...more,
  });
  context.setDefaultTimeout(8000);
  return context;
}

/** Records console errors and warnings, dialogs, and requests to other hosts; finish() reports them. */
export function listenTo(page) {
  page.on('console', line => { if (['error', 'warning'].includes(line.type())) complaints.push(line.text()); });
  page.on('pageerror', error => complaints.push(String(error)));
  page.on('dialog', dialog => { complaints.push('a dialog opened: ' + dialog.message()); dialog.dismiss(); });
  page.on('request', request => { const url = request.url(); if (!url.startsWith(base) && !url.startsWith('data:')) complaints.push('outside request: ' + url); });
  return page;
}

export async function open(context, query = '') {
  const page = listenTo(await context.newPage());
  await page.goto(base + '/' + query);
  await page.waitForSelector('#link[data-state=open]');
  return page;
}

export const text = (page, selector, pattern) => page.locator(selector).filter({ hasText: pattern }).first().waitFor();
export const joined = page => text(page, '#subtitle', /\d+ online/);
export const say = async (page, words) => { await page.fill('#text', words); await page.press('#text', 'Enter'); };
export const bubble = (page, words) => page.locator('#messages li.sent .text', { hasText: words }).last().waitFor();

export async function shot(page, name) {
  await page.waitForTimeout(150);
  await page.screenshot({ path: path.join(out, name + '.png') });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (wide > 0) { failures++; console.log(`FAIL  ${name} is ${wide} px wider than the screen`); }
}

/** Closes the browser and prints the result. The exit code is the number of failed checks. */
export async function finish(browser) {
  await check('no complaint in the console, no dialog, no outside request', async () => assert(complaints.length === 0, [...new Set(complaints)].join('\n')));
  await browser.close();
  console.log(`${failures} failed; screenshots in ${out}`);
  process.exit(failures);
}
