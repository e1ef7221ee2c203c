// Alerts that hold, above every page, until they expire or are dismissed in this browser. Each is told in the reader's
// language where the issuer wrote it. Text goes into the page through textContent only.

const POLL_MS = 4000;
const DISMISSED_KEY = "mhc.alerts.dismissed";
const MAX_DISMISSED = 200;

const WORDS = {
  en: { critical: "Emergency", high: "Warning", normal: "Notice", drill: "Drill: nothing has happened", test: "Test: nothing to do", dismiss: "Dismiss", until: "until", area: "Where", more: "See more", offline: "Shutdown mode: the outside can't be reached. Publishing, watching and alerts go on in this network.", update: "Update" },
  de: { critical: "Notfall", high: "Warnung", normal: "Hinweis", drill: "Übung: es ist nichts passiert", test: "Test: nichts zu tun", dismiss: "Ausblenden", until: "bis", area: "Wo", more: "Mehr dazu", offline: "Inselbetrieb: nach draußen gibt es keine Verbindung. Veröffentlichen, Ansehen und Warnungen gehen in diesem Netz weiter.", update: "Neuer Stand" },
  fr: { critical: "Urgence", high: "Alerte", normal: "Avis", drill: "Exercice : il ne s'est rien passé", test: "Essai : rien à faire", dismiss: "Masquer", until: "jusqu'à", area: "Où", more: "En savoir plus", offline: "Mode isolé : l'extérieur est injoignable. Publier, regarder et alerter continuent dans ce réseau.", update: "Mise à jour" },
  es: { critical: "Emergencia", high: "Alerta", normal: "Aviso", drill: "Simulacro: no ha pasado nada", test: "Prueba: no hay que hacer nada", dismiss: "Ocultar", until: "hasta", area: "Dónde", more: "Más información", offline: "Modo aislado: no se llega al exterior. Publicar, ver y alertar siguen en esta red.", update: "Actualización" },
  pt: { critical: "Emergência", high: "Alerta", normal: "Aviso", drill: "Simulacro: nada aconteceu", test: "Teste: nada a fazer", dismiss: "Ocultar", until: "até", area: "Onde", more: "Saber mais", offline: "Modo isolado: não há ligação ao exterior. Publicar, ver e alertar continuam nesta rede.", update: "Atualização" },
  it: { critical: "Emergenza", high: "Allerta", normal: "Avviso", drill: "Esercitazione: non è successo nulla", test: "Prova: niente da fare", dismiss: "Nascondi", until: "fino a", area: "Dove", more: "Altro", offline: "Modalità isolata: l'esterno non è raggiungibile. Pubblicare, guardare e allertare continuano in questa rete.", update: "Aggiornamento" },
  ru: { critical: "Чрезвычайная ситуация", high: "Предупреждение", normal: "Сообщение", drill: "Учения: ничего не случилось", test: "Проверка: делать ничего не нужно", dismiss: "Скрыть", until: "до", area: "Где", more: "Подробнее", offline: "Автономный режим: внешняя сеть недоступна. Публикация, просмотр и оповещения в этой сети работают.", update: "Обновление" },
  uk: { critical: "Надзвичайна ситуація", high: "Попередження", normal: "Повідомлення", drill: "Навчання: нічого не сталося", test: "Перевірка: нічого робити не треба", dismiss: "Сховати", until: "до", area: "Де", more: "Докладніше", offline: "Автономний режим: зовнішня мережа недоступна. Публікація, перегляд і сповіщення в цій мережі працюють.", update: "Оновлення" },
  ar: { critical: "طوارئ", high: "تحذير", normal: "إشعار", drill: "تمرين: لم يحدث شيء", test: "اختبار: لا يلزم أي إجراء", dismiss: "إخفاء", until: "حتى", area: "أين", more: "المزيد", offline: "وضع العزل: لا يمكن الوصول إلى الخارج. النشر والمشاهدة والتنبيهات مستمرة في هذه الشبكة.", update: "تحديث" },
};
const RIGHT_TO_LEFT = new Set(["ar", "fa", "he", "ur", "ps", "yi"]);
const HEX_ID = /^[0-9a-f]{64}$/;

const box = document.getElementById("alerts");
const shown = new Map(); // alert id -> its element

const base = (tag) => String(tag).toLowerCase().split("-")[0];
const languages = () => (navigator.languages?.length ? navigator.languages : [navigator.language ?? "en"]).map((tag) => tag.toLowerCase());
const words = () => WORDS[languages().map(base).find((tag) => Object.hasOwn(WORDS, tag))] ?? WORDS.en;

// The reader's first language that the issuer wrote; else English; else what there is.
function textFor(alert) {
  const texts = Object.entries(alert.texts ?? {});
  for (const wanted of [...languages(), "en"]) {
    const found = texts.find(([tag]) => tag === wanted) ?? texts.find(([tag]) => base(tag) === base(wanted));
    if (found) return found;
  }
  return texts[0] ?? [alert.language ?? "", alert.short ?? ""];
}

function readDismissed() {
  try {
    const ids = JSON.parse(localStorage.getItem(DISMISSED_KEY) ?? "[]");
    return Array.isArray(ids) ? ids : [];
  } catch {
    return [];
  }
}

let dismissed = readDismissed();

function dismiss(id) {
  dismissed = [...dismissed.filter((other) => other !== id), id].slice(-MAX_DISMISSED);
  try { localStorage.setItem(DISMISSED_KEY, JSON.stringify(dismissed)); } catch { /* private mode */ }
  const element = shown.get(id);
  const next = element?.nextElementSibling?.querySelector("button");
  element?.remove();
  shown.delete(id);
  (next ?? document.getElementById("main"))?.focus();
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function timeText(when) {
  const date = new Date(when);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

function render(alert) {
  const said = words();
  const severity = ["critical", "high", "normal"].includes(alert.severity) ? alert.severity : "normal";
  const element = make("section", `alert ${severity}${alert.drill ? " drill" : ""}`);
  // What comes in while somebody reads is announced at once; a mere notice waits for a pause.
  element.setAttribute("role", severity === "normal" ? "status" : "alert");
  element.dataset.testid = "alert";
  element.dataset.alert = alert.id;
  const heading = make("p", "alert-head");
  if (alert.drill) heading.append(make("strong", "drill-mark", alert.status === "test" ? said.test : said.drill), " ");
  heading.append(make("strong", "", said[severity]));
  if (alert.kind === "update") heading.append(" · ", said.update);
  const [tag, text] = textFor(alert);
  const body = make("p", "alert-text", text);
  if (tag) {
    body.lang = tag;
    body.dir = RIGHT_TO_LEFT.has(base(tag)) ? "rtl" : "ltr";
  }
  const until = timeText(alert.expires_at);
  const areas = (alert.areas ?? []).join(", ");
  const facts = [areas && `${said.area}: ${areas}`, until && `${said.until} ${until}`].filter(Boolean).join(" · ");
  const foot = make("p", "alert-facts", facts);
  if (HEX_ID.test(alert.content ?? "")) {
    const link = make("a", "", said.more);
    link.href = `#/watch/${alert.content}`;
    foot.append(" · ", link);
  }
  const button = make("button", "button", said.dismiss);
  button.type = "button";
  button.addEventListener("click", () => dismiss(alert.id));
  const column = make("div");
  column.append(heading, body, foot);
  element.append(column, button);
  return element;
}

// An element that is shown stays as it is, so that a screen reader tells it once; what came in later is told then.
function update(alerts) {
  const wanted = alerts.filter((alert) => !dismissed.includes(alert.id));
  for (const [id, element] of shown) {
    const alert = wanted.find((other) => other.id === id);
    if (alert && element.dataset.record === (alert.record ?? "")) continue;
    element.remove();
    shown.delete(id);
  }
  wanted.forEach((alert, place) => {
    let element = shown.get(alert.id);
    if (!element) {
      element = render(alert);
      element.dataset.record = alert.record ?? "";
      shown.set(alert.id, element);
    }
    if (box.children[place] !== element) box.insertBefore(element, box.children[place] ?? null);
  });
}

// Shutdown mode is told once, and goes by itself.
function updateMode(mode) {
  const said = words().offline;
  if (mode.mode !== "shutdown") return modeNote?.remove(), void (modeNote = null);
  if (modeNote) return;
  modeNote = make("p", "alert normal", said);
  modeNote.setAttribute("role", "status");
  modeNote.dataset.testid = "shutdown-mode";
  box.after(modeNote);
}

let modeNote = null;

async function pollMode() {
  try {
    const response = await fetch("/api/v1/node/shutdown-mode", { headers: { accept: "application/json" } });
    if (response.ok) updateMode(await response.json());
  } catch {
    // The node doesn't answer: what is shown stays.
  }
}

async function poll() {
  pollMode();
  try {
    const response = await fetch("/api/v1/node/emergency", { headers: { accept: "application/json" } });
    if (response.ok) update(await response.json());
  } catch {
    // The node doesn't answer: what is shown stays.
  }
}

poll();
setInterval(poll, POLL_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
