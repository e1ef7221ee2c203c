// The page of a node: what the network has, and a player for it. No framework, no build step, no request to
// anywhere but this gateway. Text from others goes into the page through textContent only.

const FEED_POLL_MS = 4000;
const NODE_POLL_MS = 5000;
const FLOW_POLL_MS = 1000;
const PAGE_ITEMS = 48;
const TOKEN_KEY = "mhc.operator";
const REALM_KEY = "mhc.realm";
const VIEWS = ["feed", "watch", "upload", "bundles"];
const HEX_ID = /^[0-9a-f]{64}$/;

const $ = (id) => document.getElementById(id);

const state = {
  items: new Map(), // content id -> item, in the order of the feed
  next: null, // cursor of the page after the ones loaded
  loaded: false,
  view: null, // one of VIEWS, or "message" when an error takes the page's place
  watching: null, // the item in the player
  lastFocus: null, // content id whose card gets the focus back
  flow: null, // last figures of the blob in the player: {at, local}
};

// ---------------------------------------------------------------- talking to the node

class Problem extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

async function api(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { headers: { accept: "application/json" }, ...options });
  } catch {
    throw new Problem(0, "offline", "The node doesn't answer. Is it still running?");
  }
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  throw new Problem(response.status, problem.code ?? "error", problem.detail ?? `The node answered ${response.status}.`);
}

const storage = {
  get(key) {
    try { return localStorage.getItem(key); } catch { return null; }
  },
  set(key, value) {
    try { value === null ? localStorage.removeItem(key) : localStorage.setItem(key, value); } catch { /* private mode */ }
  },
};

// ---------------------------------------------------------------- words and figures

function bytesText(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = Number(bytes) || 0;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`;
}

function durationText(ms) {
  if (!ms) return "";
  const seconds = Math.round(ms / 1000);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  if (parts[0] === 0) parts.shift();
  return parts.map((part, i) => (i === 0 ? String(part) : String(part).padStart(2, "0"))).join(":");
}

function uptimeText(seconds) {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} days`;
}

function dateText(when) {
  const date = new Date(when);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleDateString(undefined, { dateStyle: "medium" });
}

const short = (id) => String(id ?? "").slice(0, 10);
const plural = (n, one, many) => `${n} ${n === 1 ? one : many}`;
const facts = (...parts) => parts.filter(Boolean).join(" · ");
const KINDS = { video: "Video", audio: "Audio", image: "Image", file: "File" };
const kindOf = (item) => (Object.hasOwn(KINDS, item.kind) ? item.kind : "file");

function localText(local, bytes) {
  if (local?.complete) return "All of it is on this node";
  if (!local?.bytes) return "Not on this node yet";
  return `${Math.floor((100 * local.bytes) / Math.max(1, bytes))} % on this node`;
}

// ---------------------------------------------------------------- small DOM helpers

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function announce(text) {
  $("live").textContent = text;
}

function show(view) {
  state.view = view;
  for (const id of VIEWS) $(id).hidden = id !== view;
  $("error").hidden = true;
}

let retryAction = () => {};

// An error takes the page's place. Where the list couldn't be loaded, polling goes on and may clear it.
function showError(title, error, retry, recovers = false) {
  state.view = recovers ? "feed" : "message";
  for (const id of VIEWS) $(id).hidden = true;
  $("error-title").textContent = title;
  $("error-text").textContent = error.message;
  $("error-back").hidden = recovers;
  $("error").hidden = false;
  retryAction = retry;
}

// ---------------------------------------------------------------- the list

async function loadFeed() {
  try {
    const page = await api(`/api/v1/videos/feed?limit=${PAGE_ITEMS}`);
    mergeFirstPage(page);
    if (state.view === "feed" && !$("error").hidden) show("feed");
    renderFeed();
  } catch (error) {
    if (state.view === "feed" && !state.loaded) showError("The list can't be loaded", error, openFeed, true);
  }
}

// What is new goes to the front, what is known gets fresh figures, the pages behind stay.
function mergeFirstPage(page) {
  const merged = new Map(page.items.map((item) => [item.content, item]));
  const old = [...state.items.values()];
  const rest = page.next ? old : [];
  for (const item of rest) if (!merged.has(item.content)) merged.set(item.content, item);
  if (!state.loaded || !page.next) state.next = page.next ?? null;
  state.items = merged;
  state.loaded = true;
}

async function loadMore() {
  $("more").disabled = true;
  try {
    const page = await api(`/api/v1/videos/feed?limit=${PAGE_ITEMS}&cursor=${encodeURIComponent(state.next)}`);
    for (const item of page.items) state.items.set(item.content, item);
    state.next = page.next ?? null;
    renderFeed();
    announce(plural(page.items.length, "more work", "more works"));
  } catch (error) {
    announce(error.message);
  }
  $("more").disabled = false;
}

function renderFeed() {
  const list = $("items");
  const cards = new Map([...list.children].map((card) => [card.dataset.content, card]));
  let place = list.firstElementChild;
  for (const item of state.items.values()) {
    let card = cards.get(item.content);
    if (!card) card = makeCard(item);
    fillCard(card, item);
    cards.delete(item.content);
    if (card === place) place = place.nextElementSibling;
    else list.insertBefore(card, place);
  }
  for (const gone of cards.values()) gone.remove();
  $("loading").hidden = state.loaded;
  $("empty").hidden = !state.loaded || state.items.size > 0;
  $("more").hidden = !state.next;
}

function makeCard(item) {
  const card = make("li");
  card.dataset.content = item.content;
  const link = make("a", "item");
  link.href = `#/watch/${item.content}`;
  link.dataset.testid = "item";
  const kind = make("span", "kind");
  kind.append(make("b"), make("span"));
  link.append(kind, make("span", "name"), make("span", "facts"), make("span", "facts here"));
  card.append(link);
  return card;
}

function fillCard(card, item) {
  const [kind, name, what, here] = card.firstElementChild.children;
  setText(kind.children[0], KINDS[kindOf(item)]);
  setText(kind.children[1], durationText(item.duration_ms));
  setText(name, item.title || "Untitled");
  setText(what, facts(`by ${short(item.author)}`, bytesText(item.bytes), dateText(item.published_at)));
  setText(here, localText(item.local, item.bytes));
}

function openFeed() {
  stopWatching();
  show("feed");
  document.title = "MHC";
  renderFeed();
  loadFeed();
  const card = state.lastFocus && document.querySelector(`[data-content="${state.lastFocus}"] a`);
  if (card) card.focus();
}

// Arrow keys walk the grid as it is laid out.
function moveInList(key) {
  const cards = [...document.querySelectorAll("#items a")];
  if (cards.length === 0) return false;
  const at = cards.indexOf(document.activeElement);
  if (at < 0) { cards[0].focus(); return true; }
  const columns = Math.max(1, cards.filter((card) => card.offsetTop === cards[0].offsetTop).length);
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  const to = key === "Home" ? 0 : key === "End" ? cards.length - 1 : at + steps[key];
  cards[Math.min(cards.length - 1, Math.max(0, to))].focus();
  return true;
}

// ---------------------------------------------------------------- the player

async function openWatch(content) {
  stopWatching();
  show("watch");
  state.lastFocus = content;
  let item = state.items.get(content);
  if (!item) {
    $("watch-title").textContent = "Loading…";
    try {
      item = await api(`/api/v1/videos/${content}`);
    } catch (error) {
      const title = error.status === 404 ? "This work isn't known here" : "This work can't be shown";
      return showError(title, error, () => openWatch(content));
    }
    if (location.hash !== `#/watch/${content}`) return; // gone elsewhere meanwhile
  }
  state.watching = item;
  fillWatch(item);
  fillStage(item);
  pollFlow();
  $("main").focus({ preventScroll: true });
  scrollTo(0, 0);
}

function fillWatch(item) {
  document.title = `${item.title || "Untitled"} · MHC`;
  $("watch-title").textContent = item.title || "Untitled";
  $("watch-meta").textContent = facts(`by ${short(item.author)}`, KINDS[kindOf(item)], durationText(item.duration_ms),
    bytesText(item.bytes), dateText(item.published_at), item.realm);
  $("watch-description").textContent = item.description ?? "";
  $("watch-tags").replaceChildren(...(item.tags ?? []).map((tag) => make("span", "", tag)));
  $("id-content").textContent = item.content;
  $("id-blob").textContent = item.blob ?? "";
  $("id-author").textContent = item.author;
  $("download").href = streamOf(item);
  $("stage-note").hidden = true;
  fillLocal({ bytes: item.local?.bytes ?? 0, complete: item.local?.complete ?? false }, item.bytes);
  $("sources-box").hidden = true;
  $("fetching").hidden = true;
}

const streamOf = (item) => `/api/v1/videos/${item.content}/stream`;

function fillStage(item) {
  const kind = kindOf(item);
  if (kind === "file") return;
  const media = document.createElement(kind === "image" ? "img" : kind);
  media.dataset.testid = "player";
  media.addEventListener("error", () => mediaFailed(item, media));
  if (kind === "image") {
    media.alt = item.title || "Untitled";
  } else {
    media.controls = true;
    media.preload = "metadata";
    media.playsInline = true;
    media.setAttribute("aria-label", item.title || "Untitled");
    media.addEventListener("playing", () => { $("stage-note").hidden = true; });
  }
  media.src = streamOf(item);
  $("stage").append(media);
  if (kind !== "image") media.play().catch(() => { /* not without a gesture: the controls are there */ });
}

// Tells apart "nobody has it" and "this browser can't play it" by asking for the first byte.
async function mediaFailed(item, media) {
  if (state.watching !== item) return;
  let text = "This browser can't play this file. It can be downloaded.";
  try {
    const probe = await fetch(streamOf(item), { headers: { range: "bytes=0-0" } });
    if (!probe.ok) text = (await probe.json().catch(() => ({}))).detail ?? `The node answered ${probe.status}.`;
    else if (media.error?.code === 2) text = "The bytes stopped coming: no reachable node has the rest.";
  } catch {
    text = "The node doesn't answer. Is it still running?";
  }
  const note = $("stage-note");
  const again = make("button", "button", "Try again");
  again.type = "button";
  again.addEventListener("click", () => openWatch(item.content));
  note.replaceChildren(make("span", "", `${text} `), again);
  note.hidden = false;
}

function stopWatching() {
  for (const media of $("stage").children) {
    // Lets go of the connection, and with it of the demand on the network.
    media.removeAttribute("src");
    media.load?.();
  }
  $("stage").replaceChildren();
  state.watching = null;
  state.flow = null;
}

function fillLocal(local, bytes) {
  setText($("local-text"), facts(localText(local, bytes), `${bytesText(local.bytes)} of ${bytesText(bytes)}`));
  $("local-bar").value = bytes > 0 ? Math.min(1, local.bytes / bytes) : local.complete ? 1 : 0;
}

async function pollFlow() {
  const item = state.watching;
  if (!item?.blob || document.hidden) return;
  let figures;
  try {
    figures = await api(`/api/v1/node/blobs/${item.blob}`);
  } catch {
    return; // the last figures stay
  }
  if (state.watching !== item) return;
  const local = { bytes: figures.local_bytes ?? 0, complete: Boolean(figures.complete) };
  item.local = local;
  fillLocal(local, figures.size_bytes ?? item.bytes);
  fillSources(figures.sources ?? [], local);
}

function fillSources(sources, local) {
  const given = sources.filter((source) => source.bytes > 0).sort((a, b) => b.bytes - a.bytes);
  const rows = given.map((source) => make("li", "", `${short(source.node)}: ${bytesText(source.bytes)}`));
  $("sources").replaceChildren(...rows);
  $("sources-box").hidden = rows.length === 0;

  const now = performance.now();
  const before = state.flow;
  state.flow = { at: now, bytes: local.bytes };
  const grown = before ? local.bytes - before.bytes : 0;
  const badge = $("fetching");
  badge.hidden = local.complete || grown <= 0;
  if (!badge.hidden) {
    const rate = bytesText((1000 * grown) / Math.max(1, now - before.at));
    setText(badge, `Fetching from ${plural(Math.max(1, given.length), "peer", "peers")}, ${rate}/s`);
  }
}

function playerKey(key) {
  const media = document.querySelector("#stage video, #stage audio");
  if (!media) return false;
  const seek = (seconds) => {
    if (Number.isFinite(media.duration)) media.currentTime = Math.min(media.duration, Math.max(0, media.currentTime + seconds));
  };
  const volume = (step) => { media.volume = Math.min(1, Math.max(0, media.volume + step)); };
  const full = () => (document.fullscreenElement ? document.exitFullscreen() : media.requestFullscreen?.());
  const actions = {
    " ": () => (media.paused ? media.play().catch(() => {}) : media.pause()),
    ArrowLeft: () => seek(-5),
    ArrowRight: () => seek(5),
    ArrowUp: () => volume(0.1),
    ArrowDown: () => volume(-0.1),
    f: () => full()?.catch?.(() => {}),
    m: () => { media.muted = !media.muted; },
  };
  actions.k = actions[" "];
  if (!Object.hasOwn(actions, key)) return false;
  // The focused player has keys of its own for these (and buttons that Space presses); elsewhere ↑ and ↓ scroll.
  if (document.activeElement === media && (key === " " || key.startsWith("Arrow"))) return false;
  if (!document.fullscreenElement && (key === "ArrowUp" || key === "ArrowDown")) return false;
  actions[key]();
  return true;
}

// ---------------------------------------------------------------- publishing

let upload = null; // the XMLHttpRequest under way

function openUpload() {
  stopWatching();
  if (!storage.get(TOKEN_KEY)) {
    return showError("This browser isn't set up for publishing",
      new Error("Open the set-up link that `mhc up` printed when it first started, or publish with `mhc publish FILE`."), route);
  }
  show("upload");
  document.title = "Publish · MHC";
  $("file").focus();
}

function chooseFile() {
  const file = $("file").files[0];
  setText($("drop-text"), file ? `${file.name} (${bytesText(file.size)})` : "Drop a file here, or choose one");
  if (file && !$("f-title").value) $("f-title").value = file.name.replace(/\.[^.]+$/, "").slice(0, 200);
}

function sendUpload(event) {
  event.preventDefault();
  const file = $("file").files[0];
  if (!file || upload) return;
  const form = new FormData();
  form.append("title", $("f-title").value.trim());
  form.append("description", $("f-description").value);
  for (const tag of $("f-tags").value.split(",").map((tag) => tag.trim()).filter(Boolean)) form.append("tags", tag);
  form.append("realm", $("f-realm").value);
  form.append("file", file, file.name);

  upload = new XMLHttpRequest();
  upload.open("POST", "/api/v1/videos/upload");
  upload.setRequestHeader("authorization", `Bearer ${storage.get(TOKEN_KEY)}`);
  upload.responseType = "json";
  upload.upload.addEventListener("progress", (sent) => uploadProgress(sent.loaded, sent.total));
  upload.addEventListener("load", uploadAnswered);
  upload.addEventListener("error", () => uploadEnded("The connection to the node broke. Nothing was published; try again."));
  upload.addEventListener("abort", () => uploadEnded("Cancelled. Nothing was published."));
  $("upload-error").hidden = true;
  uploadProgress(0, file.size);
  setUploading(true);
  upload.send(form);
}

function setUploading(on) {
  $("progress-box").hidden = !on;
  $("cancel").hidden = !on;
  $("submit").disabled = on;
}

function uploadProgress(sent, total) {
  $("upload-bar").value = total > 0 ? sent / total : 0;
  const text = sent >= total && total > 0 ? "Sent. The node is looking at the file…" : `${bytesText(sent)} of ${bytesText(total)}`;
  setText($("upload-text"), text);
}

function uploadEnded(problem) {
  upload = null;
  setUploading(false);
  $("upload-error").hidden = !problem;
  setText($("upload-error"), problem ?? "");
}

function uploadAnswered() {
  const { status, response } = upload;
  if (status === 401) {
    setToken(null);
    return uploadEnded("The node no longer takes this browser's token. Open a new set-up link.");
  }
  if (status < 200 || status > 299) return uploadEnded(response?.detail ?? `The node answered ${status}.`);
  uploadEnded(null);
  $("upload-form").reset();
  chooseFile();
  announce("Published.");
  state.lastFocus = response?.content ?? null;
  location.hash = "#/";
}

// ---------------------------------------------------------------- bundles

let bundleJob = null; // the AbortController of the job under way

function openBundles() {
  stopWatching();
  if (!storage.get(TOKEN_KEY)) {
    return showError("This browser isn't set up for bundles",
      new Error("Open the set-up link that `mhc up` printed when it first started, or use `mhc bundle import PATH`."), route);
  }
  show("bundles");
  document.title = "Bundles · MHC";
  $("b-path").focus();
}

async function runBundle(event) {
  event.preventDefault();
  if (bundleJob) return;
  const action = event.submitter?.value ?? "import";
  const body = { path: $("b-path").value.trim() };
  if (action === "export") {
    body.browsable = $("b-browsable").checked;
    if ($("b-since").value) body.since = Math.max(0, Date.parse($("b-since").value));
  }
  bundleJob = new AbortController();
  setBundling(true);
  let lines = null;
  let problem = null;
  try {
    const report = await followBundle(action, body, bundleJob.signal);
    lines = bundleLines(action, report);
    if (report.damaged > 0) problem = `${plural(report.damaged, "problem", "problems")}: ${report.damages.slice(0, 5).map(damageText).join("; ")}`;
  } catch (error) {
    problem = error.name === "AbortError" ? "Stopped. Start it again to go on." : error.message;
    if (error.status === 401) setToken(null);
  }
  bundleJob = null;
  setBundling(false);
  $("bundle-error").hidden = !problem;
  setText($("bundle-error"), problem ?? "");
  $("bundle-result").hidden = !lines;
  $("bundle-result").replaceChildren(...(lines ?? []).map((line) => make("div", "", line)));
}

function setBundling(on) {
  for (const button of document.querySelectorAll("#bundle-form button[name]")) button.disabled = on;
  for (const id of ["bundle-progress", "bundle-stop"]) $(id).hidden = !on;
  if (!on) return;
  for (const id of ["bundle-error", "bundle-result"]) $(id).hidden = true;
  $("bundle-bar").removeAttribute("value");
  setText($("bundle-text"), "Starting…");
}

// A line of JSON for each event; the last one is the report or what went wrong.
async function followBundle(action, body, signal) {
  const headers = { "content-type": "application/json", authorization: `Bearer ${storage.get(TOKEN_KEY)}` };
  const options = { method: "POST", headers, body: JSON.stringify(body), signal };
  const response = await fetch(`/api/v1/node/bundles/${action}`, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Problem(0, "offline", "The node doesn't answer. Is it still running?");
  });
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Problem(response.status, problem.code ?? "error", problem.detail ?? `The node answered ${response.status}.`);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Problem(0, "offline", "The node stopped answering. Once it runs, start it again to go on.");
    const lines = (waiting + value).split("\n");
    waiting = lines.pop();
    for (const event of lines.map((line) => JSON.parse(line))) {
      if (event.event === "done") return event.report;
      if (event.event === "failed") throw new Problem(0, event.code, event.detail);
      if (event.event === "progress") bundleProgress(event);
    }
  }
}

function bundleProgress({ phase, done_bytes: done, total_bytes: total }) {
  if (total > 0) $("bundle-bar").value = Math.min(1, done / total);
  else $("bundle-bar").removeAttribute("value");
  setText($("bundle-text"), total > 0 ? `${phase}: ${bytesText(done)} of ${bytesText(total)}` : `${phase}…`);
}

function damageText({ bundle, segment, entry, what }) {
  return facts(bundle, segment === undefined ? "" : `segment ${segment}`, entry === undefined ? "" : `entry ${entry}`, what);
}

function bundleLines(action, report) {
  const { records, blobs } = report;
  const notes = report.notes ?? [];
  if (action === "verify") {
    return [`Right: ${plural(records, "record", "records")}, ${bytesText(report.bytes)} in ${plural(report.bundles.length, "bundle", "bundles")}`];
  }
  if (action === "export") {
    const wrote = `Wrote ${plural(records, "record", "records")} and ${plural(blobs, "blob", "blobs")}, ${bytesText(report.bytes)}, to ${report.path}`;
    const media = report.media > 0 ? [`${plural(report.media, "file", "files")} for ordinary players in MEDIA`] : [];
    return [...(report.path ? [wrote] : []), ...media, ...notes];
  }
  return [`Records: ${records.new} new, ${records.known} known`,
    `Works and files: ${blobs.complete} complete, ${blobs.partial} in part, ${bytesText(blobs.new_bytes)} new`, ...notes];
}

function setToken(token) {
  storage.set(TOKEN_KEY, token);
  const known = Boolean(storage.get(TOKEN_KEY));
  $("upload-link").hidden = !known;
  $("bundles-link").hidden = !known;
  $("empty-operator").hidden = !known;
  $("empty-guest").hidden = known;
}

// The set-up link is /setup#<code>: the code never reaches a server's log, and works once.
async function setUp() {
  if (location.pathname !== "/setup") return;
  const code = location.hash.slice(1);
  history.replaceState(null, "", "/");
  if (!code) return;
  try {
    const body = JSON.stringify({ code });
    const answer = await api("/api/v1/setup", { method: "POST", headers: { "content-type": "application/json" }, body });
    setToken(answer.token);
    announce("This browser can publish now.");
    location.hash = "#/upload";
  } catch (error) {
    showError("This browser couldn't be set up", error, openFeed);
    return false;
  }
}

// ---------------------------------------------------------------- the node's own line

async function pollNode() {
  try {
    const node = await api("/api/v1/node");
    const mode = node.mode && node.mode !== "normal" ? `mode: ${node.mode}` : "";
    setText($("status"), facts(`Node ${short(node.node)}`, plural(node.peers ?? 0, "peer", "peers"),
      plural(node.records ?? 0, "record", "records"), `${plural(node.blobs?.count ?? 0, "blob", "blobs")}, ${bytesText(node.blobs?.bytes)}`,
      mode, `up ${uptimeText(node.uptime_s ?? 0)}`, node.version ? `v${node.version}` : ""));
  } catch (error) {
    setText($("status"), error.status === 0 ? "Offline: the node doesn't answer" : "The node's state isn't known");
  }
}

// ---------------------------------------------------------------- colours

const darkSystem = matchMedia("(prefers-color-scheme: dark)");

function applyRealm() {
  const chosen = storage.get(REALM_KEY) ?? "auto";
  $("realm-choice").value = chosen;
  document.documentElement.dataset.realm = chosen !== "auto" ? chosen : darkSystem.matches ? "inferno" : "purgatorio";
}

// ---------------------------------------------------------------- routes, keys, start

function route() {
  const [, view, id] = location.hash.split("/");
  if (view === "watch" && HEX_ID.test(id ?? "")) return openWatch(id);
  if (view === "upload") return openUpload();
  if (view === "bundles") return openBundles();
  return openFeed();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "Escape") return onEscape(event);
  if (typing) return;
  if (event.key === "?") { $("help").showModal(); return event.preventDefault(); }
  const pressable = event.target.closest("button, a, summary");
  if (event.key === " " && pressable) return;
  const arrows = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key);
  const inList = arrows || (pressable && (event.key === "Home" || event.key === "End"));
  if (state.view === "feed" && inList && $("error").hidden && moveInList(event.key)) event.preventDefault();
  if (state.view === "watch" && playerKey(event.key)) event.preventDefault();
}

function onEscape(event) {
  if (document.fullscreenElement || state.view === "feed") return;
  event.preventDefault();
  location.hash = "#/";
}

function listen() {
  addEventListener("hashchange", route);
  addEventListener("keydown", onKey);
  darkSystem.addEventListener("change", applyRealm);
  $("realm-choice").addEventListener("change", (event) => { storage.set(REALM_KEY, event.target.value); applyRealm(); });
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("retry").addEventListener("click", () => retryAction());
  $("more").addEventListener("click", loadMore);
  $("upload-form").addEventListener("submit", sendUpload);
  $("cancel").addEventListener("click", () => upload?.abort());
  $("file").addEventListener("change", chooseFile);
  $("bundle-form").addEventListener("submit", runBundle);
  $("bundle-stop").addEventListener("click", () => bundleJob?.abort());
  const drop = $("drop");
  for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length > 0) { $("file").files = event.dataTransfer.files; chooseFile(); }
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { pollNode(); if (state.view === "feed") loadFeed(); } });
  setInterval(() => { if (!document.hidden && state.view === "feed") loadFeed(); }, FEED_POLL_MS);
  setInterval(() => { if (!document.hidden) pollNode(); }, NODE_POLL_MS);
  setInterval(pollFlow, FLOW_POLL_MS);
}

async function start() {
  applyRealm();
  setToken(storage.get(TOKEN_KEY));
  listen();
  pollNode();
  if ((await setUp()) !== false) route();
}

start();
