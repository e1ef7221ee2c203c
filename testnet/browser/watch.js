// Drives a browser over a gateway's page: watch.js GATEWAY CONTENT MODE [SCREENSHOT]
// Modes: play (list, play, seek), narrow (a phone's width), keyboard (no mouse), bundles (CONTENT is the folder of a
// stick, SCREENSHOT the operator's token), alerts (CONTENT is how many, told to a German reader), and public (list, play,
// and by which protocols they came, over QUIC too).
// Further arguments for the browser come in CHROMIUM_ARGS, one a line. Prints one JSON document of what was found; what it means is for the caller
// to judge.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium } from 'playwright-core'

const [gateway, content, mode, screenshot] = process.argv.slice(2)
const profile = mkdtempSync(join(tmpdir(), 'mhc-chromium-'))
const found = { console: [], outside: [], media: [], failed: [] }

// Without these, Chromium looks for its maker's servers at every start.
const args = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required', '--mute-audio',
  ...mode === 'public' ? [] : ['--disable-quic'], ...(process.env.CHROMIUM_ARGS ?? '').split('\n').filter(Boolean)]

async function open() {
  const viewport = mode === 'narrow' ? { width: 360, height: 740 } : { width: 1280, height: 800 }
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args, viewport, locale: mode === 'alerts' ? 'de-DE' : undefined,
  })
  const page = context.pages()[0] ?? await context.newPage()
  page.on('console', message => ['error', 'warning'].includes(message.type()) && found.console.push(message.text()))
  page.on('pageerror', error => found.console.push(String(error)))
  page.on('request', request => {
    const url = request.url()
    if (!url.startsWith(gateway) && !url.startsWith('data:') && !url.startsWith('blob:')) found.outside.push(url)
  })
  page.on('response', response => {
    if (/\/stream|\/blobs\//.test(response.url())) {
      found.media.push({ status: response.status(), range: response.request().headers().range ?? null })
    }
  })
  await page.goto(gateway + '/')
  return { context, page }
}

const time = page => page.getByTestId('player').evaluate(video => video.currentTime)

async function advances(page, from, by) {
  const until = Date.now() + 60_000
  while (Date.now() < until) {
    if (await time(page) >= from + by) return true
    await page.waitForTimeout(100)
  }
  return false
}

async function listed(page) {
  await page.getByTestId('item').first().waitFor()
  found.items = await page.getByTestId('item').count()
  return page.getByTestId('item').first()
}

async function opened(page) {
  await page.getByTestId('player').waitFor()
  found.title = await page.getByTestId('title').innerText()
}

const modes = {
  async play(page) {
    await (await listed(page)).click()
    await opened(page)
    found.advances = await advances(page, 0, 1)
    // To the middle, which isn't on this node yet.
    const item = await page.evaluate(id => fetch(`/api/v1/videos/${id}`).then(reply => reply.json()), content)
    found.local_share_before_seek = item.local.bytes / item.bytes
    found.seek_target_s = await page.getByTestId('player').evaluate(video => video.currentTime = video.duration / 2)
    found.advances_after_seek = await advances(page, found.seek_target_s, 1)
    if (screenshot) await page.screenshot({ path: screenshot })
  },
  async public(page) {
    await (await listed(page)).click()
    await opened(page)
    found.advances = await advances(page, 0, 1)
    found.protocols = await page.evaluate(() => [...new Set([...performance.getEntriesByType('navigation'),
      ...performance.getEntriesByType('resource')].map(entry => entry.nextHopProtocol))])
    if (screenshot) await page.screenshot({ path: screenshot })
  },
  async narrow(page) {
    const item = await listed(page)
    const width = () => page.evaluate(() => document.documentElement.scrollWidth)
    found.width_of_list = await width()
    await item.click()
    await opened(page)
    found.width_of_player = await width()
  },
  async keyboard(page) {
    await listed(page)
    found.reached = false
    for (let presses = 0; presses < 40 && !found.reached; presses++) {
      await page.keyboard.press('Tab')
      found.reached = await page.evaluate(() => Boolean(document.activeElement?.closest('[data-testid=item]')))
    }
    await page.keyboard.press('Enter')
    await opened(page)
    found.advances = await advances(page, 0, 0.5)
    const paused = () => page.getByTestId('player').evaluate(video => video.paused)
    await page.keyboard.press('k')
    found.paused_by_key = await paused()
    await page.keyboard.press('Escape')
    await listed(page)
  },
  async alerts(page) {
    await page.setViewportSize({ width: 360, height: 740 })
    const alerts = page.getByTestId('alert')
    await alerts.nth(Number(content) - 1).waitFor()
    found.texts = await alerts.allInnerTexts()
    found.roles = await alerts.evaluateAll(all => all.map(alert => alert.getAttribute('role')))
    found.width = await page.evaluate(() => document.documentElement.scrollWidth)
    await alerts.first().getByRole('button').click()
    found.left = await alerts.count()
    await page.reload()
    await alerts.first().waitFor()
    found.left_after_reload = await alerts.count()
  },
  async bundles(page) {
    await page.evaluate(token => localStorage.setItem('mhc.operator', token), screenshot)
    await page.setViewportSize({ width: 360, height: 740 })
    await page.reload()
    await page.getByRole('link', { name: 'Bundles' }).click()
    const press = async (path, name, shown) => {
      await page.getByLabel('Folder of the stick').fill(path)
      await page.getByRole('button', { name, exact: true }).click()
      await page.getByTestId(shown).waitFor()
      return page.getByTestId(shown).innerText()
    }
    found.nothing = await press(content, 'Import', 'bundle-error')
    found.exported = await press(content, 'Export', 'bundle-result')
    found.verified = await press(content, 'Verify', 'bundle-result')
    found.imported = await press(content, 'Import', 'bundle-result')
    found.width = await page.evaluate(() => document.documentElement.scrollWidth)
  },
}

const { context, page } = await open()
try {
  await modes[mode](page)
} catch (error) {
  found.error = String(error)
  found.body = (await page.locator('body').innerText().catch(() => '')).slice(0, 2000)
} finally {
  await context.close()
  rmSync(profile, { recursive: true, force: true })
}
console.log(JSON.stringify(found))
