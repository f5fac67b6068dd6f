"use strict";
const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent), clips = data.clips, N = clips.length;
const place = new Map(clips.map((c, n) => [c.f, n])), server = data.mode === "server";
const STORE = `xtts_ka review ${data.key}`, ROW = 58, STEPS = data.steps;
const WORDS = {
  en: {
    other: "ქართული", title: "Review", keys: "Keys", count: (a, b) => `${a} of ${b} reviewed`, found: (a, b) => a === b ? `${b} clips` : `${a} of ${b} clips`,
    by: {checks: "", confidence: "not checked yet: least confident first", corpus: "not checked yet: in the order of the corpus"},
    search: "Search text, file, speaker", flags: "all clips", flagged: "with flags", plain: "without flags", voices: "all speakers",
    states: {all: "any state", todo: "not reviewed", seen: "reviewed", edited: "changed", gone: "left out", odd: "edits that do not fit"},
    orders: {worst: "worst first", confidence: "least confident first", corpus: "in the corpus's order", long: "longest first", short: "shortest first"},
    kept: "all edits are saved", waiting: n => `${n} not saved yet`, here: n => `${n} in this browser`, save: "Save edits", none: "No clip is like this.", empty: "no text yet",
    play: "hear", fine: "right, next", edit: "correct", speaker: "speaker", part: "part", drop: "leave out", restore: "take in again", undo: "undo", redo: "redo",
    read: "Read as", readings: {wait: "…", given: "Reading of the text as it was given; the corrected one is read when the edits are taken over."},
    out: "Left out", source: "from", seconds: "length", confidence: "confidence", split: "part", s: "s", was: "was", broken: "the sound cannot be played",
    editing: "Enter saves, Shift+Enter saves and goes on, Tab plays, Esc cancels", pipe: "A text may not hold “|”: it separates the columns.", nobody: "A clip needs a speaker.",
    who: "Who speaks? Enter takes what is typed, ↓ a name of the list", why: "Why is it left out? A number, or type a reason and Enter", which: "Which part? A number; 0: none", noPart: "none",
    reasons: ["noise", "wrong text", "two speakers", "cut off", "music", "another language", "not speech"], back: "take back", odd: "does not fit: the clip was changed before", nothing: "Nothing to take back here; older edits are below each clip.",
    noRedo: "Nothing to do again.", auto: on => on ? "Plays by itself when you move on." : "Plays only when asked.", speed: v => `Speed ${v}`, saidOut: "leaves the clip out: ", saidIn: "takes the clip in again", saidFine: "found right",
    away: "The server does not answer. Edits are kept in this browser and sent again by themselves.", full: "This browser can keep no more: save the edits now, and take them over.", disk: why => `Not saved: ${why}. The edit is kept in this browser and sent again by itself.`,
    lost: (why, what) => `Not kept: ${why}. What you entered: ${what}`, close: "close",
    help: [["Space", "hear, stop"], ["j ↓ · k ↑", "next, previous"], ["← →", "a second back, on"], ["Enter", "right as it is, next"], ["e", "correct the text"], ["Enter · Esc", "save, cancel the text"], ["Shift+Enter · Tab", "save and next · play while typing"], ["s", "another speaker"], ["t", "train, val or test"], ["d", "leave out, with a reason"], ["r", "take in again"], ["u · U", "undo, redo"], ["/", "search"], ["f", "filters, Tab to the next"], ["Home · End", "first, last"], ["p", "play by itself, or not"], ["[ ]", "slower, faster"], ["w", "save the edits to a file"], ["l", "ქართულად"], ["?", "these keys"]],
    helpNote: server ? "Every edit is written to curation/edits.jsonl as it is made; the recordings and metadata.csv stay as they are." : "Edits are kept in this browser. Save them to a file (w), and take them over: xtts-ka corpus apply CORPUS edits.jsonl",
  },
  ka: {
    other: "English", title: "განხილვა", keys: "კლავიშები", count: (a, b) => `განხილულია ${a} / ${b}`, found: (a, b) => a === b ? `${b} კლიპი` : `${a} კლიპი ${b}-დან`,
    by: {checks: "", confidence: "ჯერ არ შემოწმებულა: ჯერ ნაკლებად სანდო", corpus: "ჯერ არ შემოწმებულა: კორპუსის რიგით"},
    search: "ძიება: ტექსტი, ფაილი, მოლაპარაკე", flags: "ყველა კლიპი", flagged: "შენიშვნით", plain: "შენიშვნის გარეშე", voices: "ყველა მოლაპარაკე",
    states: {all: "ნებისმიერი", todo: "განუხილავი", seen: "განხილული", edited: "შეცვლილი", gone: "ამოღებული", odd: "შეუსაბამო ჩასწორებით"},
    orders: {worst: "ჯერ ყველაზე ცუდი", confidence: "ჯერ ნაკლებად სანდო", corpus: "კორპუსის რიგით", long: "ჯერ გრძელი", short: "ჯერ მოკლე"},
    kept: "ყველა ჩასწორება შენახულია", waiting: n => `${n} ჯერ არ შენახულა`, here: n => `ამ ბრაუზერშია ${n}`, save: "ფაილად შენახვა", none: "ასეთი კლიპი არ არის.", empty: "ტექსტი ჯერ არ არის",
    play: "მოსმენა", fine: "სწორია, შემდეგი", edit: "ჩასწორება", speaker: "მოლაპარაკე", part: "ნაწილი", drop: "ამოღება", restore: "დაბრუნება", undo: "გაუქმება", redo: "გამეორება",
    read: "იკითხება", readings: {wait: "…", given: "ასე იკითხება თავდაპირველი ტექსტი; ჩასწორებული წაიკითხება, როცა ჩასწორებებს კორპუსი მიიღებს."},
    out: "ამოღებულია", source: "წყარო", seconds: "ხანგრძლივობა", confidence: "სანდოობა", split: "ნაწილი", s: "წმ", was: "იყო", broken: "ხმა ვერ იკითხება",
    editing: "Enter ინახავს, Shift+Enter ინახავს და გადადის, Tab უკრავს, Esc აუქმებს", pipe: "ტექსტში „|“ არ შეიძლება: ის სვეტებს ჰყოფს.", nobody: "კლიპს მოლაპარაკე სჭირდება.",
    who: "ვინ ლაპარაკობს? Enter იღებს აკრეფილს, ↓ — სახელს სიიდან", why: "რატომ ამოვიღოთ? ციფრი, ან მიზეზი და Enter", which: "რომელი ნაწილი? ციფრი; 0: არცერთი", noPart: "არცერთი",
    reasons: ["ხმაური", "სხვა ტექსტი", "ორი მოლაპარაკე", "ჩამოჭრილია", "მუსიკა", "სხვა ენა", "არ არის მეტყველება"], back: "გაუქმება", odd: "აღარ ერგება: კლიპი მანამდე შეიცვალა", nothing: "აქ გასაუქმებელი არაფერია; ძველი ჩასწორებები თითო კლიპის ქვეშ დგას.",
    noRedo: "გასამეორებელი არაფერია.", auto: on => on ? "გადასვლისას თავისით უკრავს." : "მხოლოდ მოთხოვნით უკრავს.", speed: v => `სიჩქარე ${v}`, saidOut: "იღებს კლიპს: ", saidIn: "აბრუნებს კლიპს", saidFine: "სწორია",
    away: "სერვერი არ პასუხობს. ჩასწორებები ამ ბრაუზერში ინახება და თავისით გაიგზავნება.", full: "ბრაუზერი მეტს ვეღარ ინახავს: შეინახეთ ჩასწორებები ფაილად და გადაიტანეთ კორპუსში.", disk: why => `არ შენახულა: ${why}. ჩასწორება ამ ბრაუზერში რჩება და თავისით გაიგზავნება.`,
    lost: (why, what) => `არ მიიღო: ${why}. რაც შეიყვანეთ: ${what}`, close: "დახურვა",
    help: [["Space", "მოსმენა, გაჩერება"], ["j ↓ · k ↑", "შემდეგი, წინა"], ["← →", "წამით უკან, წინ"], ["Enter", "სწორია, შემდეგი"], ["e", "ტექსტის ჩასწორება"], ["Enter · Esc", "ტექსტის შენახვა, გაუქმება"], ["Shift+Enter · Tab", "შენახვა და შემდეგი · კრეფისას მოსმენა"], ["s", "სხვა მოლაპარაკე"], ["t", "train, val ან test"], ["d", "ამოღება მიზეზით"], ["r", "დაბრუნება"], ["u · U", "გაუქმება, გამეორება"], ["/", "ძიება"], ["f", "ფილტრები, Tab — შემდეგი"], ["Home · End", "პირველი, ბოლო"], ["p", "თავისით უკრავს თუ არა"], ["[ ]", "ნელა, ჩქარა"], ["w", "ჩასწორებების ფაილად შენახვა"], ["l", "in English"], ["?", "ეს კლავიშები"]],
    helpNote: server ? "ყოველი ჩასწორება მაშინვე იწერება ფაილში curation/edits.jsonl; ჩანაწერები და metadata.csv უცვლელი რჩება." : "ჩასწორებები ამ ბრაუზერში ინახება. შეინახეთ ფაილად (w) და გადაიტანეთ: xtts-ka corpus apply CORPUS edits.jsonl",
  },
};
const w = () => WORDS[prefs.language];

// What this browser remembers
function recall(key, otherwise) { try { return JSON.parse(localStorage.getItem(key)) ?? otherwise; } catch { return otherwise; } }
function remember(key, value) { try { localStorage.setItem(key, JSON.stringify(value)); return true; } catch { return false; } }
function forget(key) { try { localStorage.removeItem(key); } catch { /* nothing is kept */ } }
const prefs = {language: (navigator.language || "").startsWith("ka") ? "ka" : "en", auto: true, speed: 1, order: "worst", at: "", mine: [], ...recall(STORE, {})};
if (!WORDS[prefs.language]) prefs.language = "en";
const keepPrefs = () => remember(STORE, prefs);

// Edits: those that the corpus has, and those on their way to it
let journal = data.edits, pending = [], tab = "";
try { tab = sessionStorage.getItem(STORE) || hex(4); sessionStorage.setItem(STORE, tab); } catch { tab = hex(4); }
const WAITING = `${STORE} edits`, OWN = server ? `${WAITING} ${tab}` : WAITING;
function hex(n) { return [...crypto.getRandomValues(new Uint8Array(n))].map(b => b.toString(16).padStart(2, "0")).join(""); }
function stored() {
  const keys = server ? Object.keys(localStorage).filter(k => k.startsWith(WAITING)) : [WAITING];
  return keys.flatMap(k => recall(k, []));
}
function adopt() { // Edits that were not saved when the page was closed, by this tab or another
  const known = new Set([...journal, ...pending].map(e => e.id));
  try { for (const e of stored()) if (e && e.id && !known.has(e.id)) { known.add(e.id); pending.push(e); } } catch { /* nothing is kept */ }
}
function keepPending() {
  if (!server) adopt();
  if (server && !pending.length) { for (const k of mineAndOld()) forget(k); return; }
  if (!remember(OWN, pending)) trouble(w().full, "full"); else untrouble("full");
}
function mineAndOld() { try { return Object.keys(localStorage).filter(k => k.startsWith(WAITING) && recall(k, []).every(e => known.has(e.id))); } catch { return []; } }

let byClip = new Map(), gone = new Set(), known = new Set(), cache = new Map(), seen = 0;
function build() {
  byClip = new Map(); gone = new Set(); known = new Set(); cache = new Map(); seen = 0;
  const all = [];
  for (const e of [...journal, ...pending]) { if (e.id && known.has(e.id)) continue; known.add(e.id); all.push(e); }
  for (let i = all.length - 1; i >= 0; i--) if (all[i].undo && !gone.has(all[i].id)) gone.add(all[i].undo);
  for (const e of all) {
    const n = place.get(e.clip);
    if (e.undo || n === undefined) continue;
    byClip.has(n) ? byClip.get(n).push(e) : byClip.set(n, [e]);
  }
  for (const n of byClip.keys()) if (stateOf(n).seen) seen++;
}
function stateOf(n) { // As `curate.edits.replay` has it
  let s = cache.get(n);
  if (s) return s;
  const c = clips[n], v = {...c.x, text: c.t, speaker_name: c.s, split: c.p};
  s = {v, drop: "", seen: false, edited: false, odd: new Set()};
  for (const e of byClip.get(n) || []) {
    if (gone.has(e.id)) continue;
    if (!STEPS.includes(e.by)) s.seen = true;
    if (Object.entries(e.was || {}).some(([k, x]) => (v[k] ?? "") !== x)) { s.odd.add(e); continue; }
    Object.assign(v, e.set || {});
    if (Object.keys(e.set || {}).some(k => k !== "reviewed")) s.edited = true;
    if (e.drop) s.drop = e.drop;
    if (e.restore) s.drop = "";
  }
  cache.set(n, s);
  return s;
}
function edit(n, fields) {
  const e = {clip: n === null ? "" : clips[n].f, ...fields, by: data.by, at: new Date().toISOString().replace(/\.\d+Z$/, "+00:00"), id: hex(6)};
  pending.push(e);
  prefs.mine = [...prefs.mine, e.id].slice(-1000);
  keepPrefs(); keepPending(); build(); show(); send();
  return e;
}
const held = (n, column) => stateOf(n).v[column] ?? "";
const change = (n, column, value, was) => edit(n, {set: {[column]: value}, was: {[column]: was}}); // `was`: what was seen when the change began
const everything = () => [...journal, ...pending];
function undo() {
  const mine = new Set(prefs.mine), last = everything().findLast(e => mine.has(e.id) && !e.undo && !gone.has(e.id) && place.has(e.clip));
  if (!last) return say(w().nothing);
  edit(null, {undo: last.id});
  go(place.get(last.clip), false);
}
function redo() {
  const mine = new Set(prefs.mine), all = everything(), of = new Map(all.filter(e => !e.undo).map(e => [e.id, e])), stands = e => mine.has(e.id) && !gone.has(e.id);
  const i = all.findLastIndex(e => stands(e) && of.has(e.undo)), later = all.findLastIndex(e => stands(e) && !e.undo);
  const after = i >= 0 && later > i && !all.slice(later).some(e => e.undo);
  if (i < 0 || after) return say(w().noRedo);
  edit(null, {undo: all[i].id});
  go(place.get(of.get(all[i].undo).clip), false);
}

// To the server, one after the other, until it says that it has them
let sending = false, troubles = new Map(), retry = 0;
function trouble(text, kind) { troubles.set(kind, text); showTrouble(); }
function untrouble(kind) { if (troubles.delete(kind)) showTrouble(); }
function showTrouble() {
  const box = $("trouble"), lost = [...troubles.keys()].some(k => k.startsWith("lost"));
  box.hidden = !troubles.size;
  box.replaceChildren(...[...troubles.values()].map(t => make("span", `${t} `)), ...(lost ? [button(w().close, "plain", () => { for (const k of [...troubles.keys()]) if (k.startsWith("lost")) troubles.delete(k); showTrouble(); })] : []));
}
function take(answer) {
  if (!answer || !answer.edits) return;
  if (answer.edits.length || answer.from !== journal.length) { journal = [...journal.slice(0, answer.from), ...answer.edits]; build(); show(); }
}
const headers = {"Content-Type": "application/json"};
async function send() {
  if (!server || sending) return;
  sending = true; clearTimeout(retry);
  while (pending.length) {
    const e = pending[0];
    let r, answer;
    try {
      r = await fetch("edits", {method: "POST", headers, body: JSON.stringify({edit: e, after: journal.length})});
      answer = await r.json();
    } catch { trouble(w().away, "server"); retry = setTimeout(send, 3000); break; }
    if (!r.ok && r.status !== 409 && r.status !== 400) { trouble(w().disk(answer.error || r.status), "server"); retry = setTimeout(send, 3000); break; }
    untrouble("server");
    pending.shift();
    if (r.ok) take(answer); else { build(); await look(); refusedEdit(e, answer.error); }
    known.add(e.id); keepPending();
  }
  sending = false;
  build(); showHead(); showList();
}
function refusedEdit(e, why) {
  const n = place.get(e.clip), what = e.set ? Object.values(e.set).join(", ") : e.drop || "";
  trouble(w().lost(why, `“${what}”`), `lost ${e.id}`);
  if (n === at && e.set && "text" in e.set && !editing) { build(); show(); startEdit(e.set.text); }
}
async function look() { // What others have edited
  if (!server) return;
  try { const r = await fetch(`edits?after=${journal.length}`); if (r.ok) { take(await r.json()); if (!pending.length) untrouble("server"); } }
  catch { trouble(w().away, "server"); }
}
function download() {
  const text = pending.concat(server ? journal : []).map(e => JSON.stringify(e) + "\n").join(""), link = make("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/jsonl"}));
  link.download = "edits.jsonl";
  document.body.append(link); link.click(); link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// Parts of the page
function make(tag, text, kind) { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (kind) e.className = kind; return e; }
function button(text, kind, act) { const b = make("button", text, kind); b.type = "button"; b.onclick = act; return b; }
function option(value, text) { const o = make("option", text); o.value = value; return o; }
const grouped = v => v.toLocaleString("en");
function say(text, bad) { $("hint").textContent = text; $("hint").classList.toggle("bad", !!bad); }

// Which clips, and in what order
const ranked = data.order, rank = new Map(ranked.map((n, i) => [n, i])), lower = [];
const number = v => v === undefined || v === "" || isNaN(+v) ? 2 : +v;
const ORDERS = {
  worst: () => ranked.slice(), corpus: () => clips.map((_, n) => n),
  confidence: () => clips.map((_, n) => n).sort((a, b) => number(clips[a].x.confidence) - number(clips[b].x.confidence) || a - b),
  long: () => clips.map((_, n) => n).sort((a, b) => (clips[b].d || 0) - (clips[a].d || 0) || a - b),
  short: () => clips.map((_, n) => n).sort((a, b) => (clips[a].d || 0) - (clips[b].d || 0) || a - b),
};
let view = [], at = -1, order = [], ordered = "";
const haystack = n => lower[n] ??= `${clips[n].t}\n${clips[n].f}\n${clips[n].s}`.toLowerCase();
function fits(n, f) {
  const c = clips[n], kinds = Object.keys(c.g);
  if (f.flag === "*" && !kinds.length || f.flag === "-" && kinds.length || f.flag.startsWith("=") && !(f.flag.slice(1) in c.g)) return false;
  if (f.state === "all" && !f.voice && !f.text) return true;
  const s = stateOf(n);
  if (f.voice && s.v.speaker_name !== f.voice.slice(1)) return false;
  if (f.text && !haystack(n).includes(f.text) && !`${s.v.text}\n${s.v.speaker_name}`.toLowerCase().includes(f.text)) return false;
  return {all: true, todo: !s.seen, seen: s.seen, edited: s.edited, gone: !!s.drop, odd: s.odd.size > 0}[f.state];
}
function sieve() {
  const f = {flag: $("flag").value, voice: $("speaker").value, state: $("state").value || "all", text: $("search").value.trim().toLowerCase().normalize("NFC")};
  if (ordered !== $("order").value) { ordered = $("order").value || "worst"; order = (ORDERS[ordered] || ORDERS.worst)(); prefs.order = ordered; keepPrefs(); }
  view = order.filter(n => fits(n, f));
  $("inner").style.height = `${view.length * ROW}px`;
  if (!view.includes(at)) { at = view.length ? view[0] : -1; opened(); }
  show(); reveal();
}
function options(box, pairs, value) { box.replaceChildren(...pairs.map(([v, t]) => option(v, t))); box.value = value; if (box.selectedIndex < 0) box.selectedIndex = 0; }
function count(values) { const m = new Map(); for (const v of values) m.set(v, (m.get(v) || 0) + 1); return [...m].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)); }
const voices = () => count(clips.map((_, n) => byClip.has(n) ? stateOf(n).v.speaker_name : clips[n].s));
function fillSieve() {
  const flags = count(clips.flatMap(c => Object.keys(c.g))), of = id => $(id).value;
  options($("flag"), [["", w().flags], ...(flags.length ? [["*", w().flagged], ["-", w().plain]] : []), ...flags.map(([k, n]) => [`=${k}`, `${k} (${grouped(n)})`])], of("flag"));
  options($("speaker"), [["", w().voices], ...voices().map(([k, n]) => [`=${k}`, `${k} (${grouped(n)})`])], of("speaker"));
  options($("state"), Object.entries(w().states), of("state") || "all");
  const sure = clips.some(c => number(c.x.confidence) < 2);
  options($("order"), Object.entries(w().orders).filter(([k]) => sure || k !== "confidence"), of("order") || prefs.order);
  $("search").placeholder = w().search;
  for (const [id, name] of [["search", w().search], ["flag", w().flags], ["speaker", w().voices], ["state", w().states.all], ["order", w().orders.worst]]) $(id).setAttribute("aria-label", name);
}

// The list: only the rows that are seen exist
function showList() {
  const list = $("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW) - 6), last = Math.min(view.length, first + Math.ceil(list.clientHeight / ROW) + 12);
  $("inner").replaceChildren(...view.slice(first, last).map((n, i) => rowOf(n, first + i)));
  list.setAttribute("aria-activedescendant", at < 0 ? "" : `row${at}`);
}
function rowOf(n, i) {
  const s = stateOf(n), row = make("div", undefined, "row"), under = make("div", undefined, "under"), line = make("div", s.v.text.slice(0, 300), "line"), kinds = Object.keys(clips[n].g);
  row.id = `row${n}`; row.style.top = `${i * ROW}px`;
  row.classList.toggle("here", n === at); row.classList.toggle("seen", s.seen); row.classList.toggle("gone", !!s.drop);
  row.setAttribute("role", "option"); row.setAttribute("aria-selected", n === at); row.setAttribute("aria-setsize", view.length); row.setAttribute("aria-posinset", i + 1);
  line.dir = "auto";
  if (kinds.length) under.append(make("b", kinds.join(", ")), " · ");
  const voice = make("bdi", s.v.speaker_name);
  under.append(voice, clips[n].d ? ` · ${clips[n].d.toFixed(1)} ${w().s}` : "");
  row.append(make("span", s.drop ? "✕" : s.edited ? "✎" : s.seen ? "✓" : "·", "mark"), line, under);
  row.onclick = () => { if (leave()) { go(n); $("clip").focus({preventScroll: true}); } };
  return row;
}
function reveal() {
  const list = $("list"), i = view.indexOf(at), top = i * ROW;
  if (i < 0) return;
  if (top < list.scrollTop) list.scrollTop = top; else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  showList();
}
function go(n, play = prefs.auto) {
  if (n === undefined || n < 0) return;
  if (at !== n) { at = n; opened(); }
  show(); reveal();
  if (play) start();
}
function step(by) { const i = view.indexOf(at), j = Math.max(0, Math.min(view.length - 1, i + by)); if (view.length && j !== i) go(view[j]); }
function opened() { // Another clip
  stop(); closeChoice(); say("");
  $("clip").scrollTop = 0;
  prefs.at = at < 0 ? "" : clips[at].f; keepPrefs();
  const audio = $("audio");
  document.querySelector(".sound").classList.remove("broken");
  if (at < 0) return;
  audio.src = server ? `sound/${at}` : data.sounds[at];
  audio.playbackRate = prefs.speed;
}

// Sound
const audio = $("audio"), shapes = new Map();
function start() { audio.playbackRate = prefs.speed; audio.play().then(draw, () => {}); }
function stop() { audio.pause(); }
function toggle() { if (audio.paused) { if (audio.ended || audio.currentTime >= (audio.duration || 0) - 0.02) audio.currentTime = 0; start(); } else stop(); }
audio.onplay = audio.onpause = audio.onended = () => { $("play").classList.toggle("on", !audio.paused); draw(); };
audio.onloadedmetadata = audio.onseeked = () => draw();
audio.onerror = () => { if (at >= 0) { document.querySelector(".sound").classList.add("broken"); $("time").textContent = w().broken; } };
async function shapeOf(n) {
  if (shapes.has(n)) return shapes.get(n);
  let text = "";
  try { text = server ? (await (await fetch(`outline/${n}`)).json()).outline : data.outlines[n]; } catch { return null; }
  const shape = Uint8Array.from(atob(text || ""), c => c.charCodeAt(0));
  if (shapes.size > 500) shapes.clear();
  shapes.set(n, shape);
  return shape;
}
let drawing = 0;
function draw() { cancelAnimationFrame(drawing); drawing = requestAnimationFrame(paint); }
function paint() {
  const box = $("wave"), shape = shapes.get(at), scale = devicePixelRatio || 1, wide = box.clientWidth, high = box.clientHeight;
  if (box.width !== Math.round(wide * scale) || box.height !== Math.round(high * scale)) { box.width = Math.round(wide * scale); box.height = Math.round(high * scale); }
  const g = box.getContext("2d"), style = getComputedStyle(document.documentElement), accent = style.getPropertyValue("--accent").trim(), line = style.getPropertyValue("--line").trim();
  g.setTransform(scale, 0, 0, scale, 0, 0); g.clearRect(0, 0, wide, high);
  const seconds = audio.duration || (at >= 0 && clips[at].d) || 0, part = seconds ? audio.currentTime / seconds : 0, length = shape ? shape.length : 0;
  if (!length) { g.fillStyle = line; g.fillRect(0, high / 2 - 1, wide, 2); g.fillStyle = accent; g.fillRect(0, high / 2 - 1, wide * part, 2); }
  const bar = wide / (length || 1);
  for (let i = 0; i < length; i++) {
    const h = Math.max(2, shape[i] / 255 * (high - 4));
    g.globalAlpha = i / length < part ? 1 : 0.36; g.fillStyle = accent;
    g.fillRect(i * bar, (high - h) / 2, Math.max(1, bar * 0.62), h);
  }
  g.globalAlpha = 1;
  if (part > 0) { g.fillStyle = accent; g.fillRect(Math.min(wide - 1.5, wide * part), 0, 1.5, high); }
  if (!document.querySelector(".sound").classList.contains("broken")) $("time").textContent = seconds ? `${audio.currentTime.toFixed(1)} / ${seconds.toFixed(1)} ${w().s}` : "";
  if (!audio.paused) drawing = requestAnimationFrame(paint);
}
$("wave").onclick = e => { const r = $("wave").getBoundingClientRect(); if (audio.duration) { audio.currentTime = (e.clientX - r.left) / r.width * audio.duration; draw(); } };
const seek = by => { audio.currentTime = Math.max(0, Math.min((audio.duration || 0) - 0.01, audio.currentTime + by)); draw(); };

// How the text is read
const readings = new Map();
let readingOf = "", readTimer = 0;
function showReading(text) {
  const key = at < 0 ? "" : `${clips[at].x.language || ""}\n${text}`;
  if (key === readingOf && $("reading").childElementCount) return;
  readingOf = key; clearTimeout(readTimer);
  if (!server) return drawReading(text === clips[at].t ? data.readings[at] : {...data.readings[at], old: true});
  if (readings.has(key)) return drawReading(readings.get(key));
  readTimer = setTimeout(async () => {
    const n = at;
    try {
      const r = await fetch("reading", {method: "POST", headers, body: JSON.stringify({clip: n, text})}), found = await r.json();
      if (readings.size > 2000) readings.clear();
      if (r.ok) readings.set(key, found);
      if (key === readingOf) drawReading(r.ok ? found : {said: "", changes: [], notes: [found.error]});
    } catch { /* the banner says that the server is away */ }
  }, editing ? 150 : 0);
}
function drawReading(r) {
  const box = $("reading"), said = make("p", r.said || (r.notes.length ? "" : "—"), "said"), chips = make("p", undefined, "chips");
  said.dir = "auto";
  for (const [a, b] of r.changes.slice(0, 20)) { const c = make("span"); c.append(make("del", a), ` ${b}`); chips.append(c); }
  box.replaceChildren(make("p", r.old ? w().readings.given : w().read, "label"), ...(said.textContent ? [said] : []), ...(r.changes.length ? [chips] : []), ...r.notes.map(n => make("p", `⚠ ${n}`, "note")));
}

// The text
let editing = false, before = "";
const clean = t => t.replace(/[\t\r\n\v\f\x85\u2028\u2029]+/g, " ").replace(/[\x00-\x1f\x7f]/g, "").trim().normalize("NFC");
function grow() { const b = $("edit"); b.style.height = "auto"; b.style.height = `${b.scrollHeight + 2}px`; }
function startEdit(text) {
  if (at < 0) return;
  closeChoice(); editing = true; before = held(at, "text");
  const box = $("edit");
  box.value = text ?? stateOf(at).v.text; box.hidden = false; $("text").hidden = true;
  grow(); box.focus(); box.setSelectionRange(box.value.length, box.value.length);
  say(w().editing);
}
function endEdit() { editing = false; $("edit").hidden = true; $("text").hidden = false; say(""); $("clip").focus({preventScroll: true}); }
function saveEdit() { // false: the text cannot be kept
  const text = clean($("edit").value);
  if (text.includes("|")) { say(w().pipe, true); return false; }
  const n = at;
  endEdit();
  if (text !== before) change(n, "text", text, before); else show();
  return true;
}
function leave() { return editing ? saveEdit() : true; }
$("edit").oninput = () => { grow(); showReading(clean($("edit").value)); if ($("hint").classList.contains("bad")) say(w().editing); };
$("edit").onkeydown = e => {
  if (e.isComposing) return;
  if (e.key === "Enter") { e.preventDefault(); if (saveEdit() && e.shiftKey) step(1); }
  else if (e.key === "Escape") { e.preventDefault(); endEdit(); show(); }
  else if (e.key === "Tab" && !e.shiftKey) { e.preventDefault(); toggle(); }
  e.stopPropagation();
};

// A question with a short answer: speaker, part, reason
let choice = null;
function choose(label, items, given, digits, done) { // items: [[value, shown]]
  closeChoice();
  const box = $("choose"), input = make("input"), list = make("ol");
  let on = -1, shown = items;
  input.autocomplete = "off"; input.spellcheck = false; input.dir = "auto"; input.setAttribute("aria-label", label);
  const pick = value => { closeChoice(); done(value); };
  const draw = () => {
    const text = input.value.trim().toLowerCase();
    shown = digits ? items : items.filter(([v, t]) => t.toLowerCase().includes(text)).slice(0, 24);
    if (on >= shown.length) on = -1;
    list.replaceChildren(...shown.map(([v, t], i) => {
      const li = make("li", undefined, i === on ? "on" : "");
      if (digits) li.append(make("kbd", String(given === null ? i : i + 1)));
      li.append(t); li.dir = "auto";
      li.onclick = () => pick(v);
      return li;
    }));
  };
  input.oninput = () => { on = -1; draw(); };
  input.onkeydown = e => {
    if (e.isComposing) return;
    const digit = /^[0-9]$/.test(e.key) && digits && !input.value ? items[+e.key - (given === null ? 0 : 1)] : null;
    if (digit) { e.preventDefault(); pick(digit[0]); }
    else if (e.key === "Escape") { e.preventDefault(); closeChoice(); $("clip").focus({preventScroll: true}); }
    else if (e.key === "ArrowDown" || e.key === "ArrowUp") { e.preventDefault(); on = Math.max(-1, Math.min(shown.length - 1, on + (e.key === "ArrowDown" ? 1 : -1))); draw(); list.children[on]?.scrollIntoView({block: "nearest"}); }
    else if (e.key === "Enter") { e.preventDefault(); if (on >= 0) pick(shown[on][0]); else if (input.value.trim() && given !== null) pick(input.value); }
    e.stopPropagation();
  };
  box.replaceChildren(make("p", label, "label"), input, list);
  box.hidden = false; choice = box;
  draw(); input.focus(); box.scrollIntoView({block: "nearest"});
}
function closeChoice() { if (choice) { choice.hidden = true; choice.replaceChildren(); choice = null; } }

// What can be done with a clip
const ACTS = {
  play: toggle,
  fine() { const n = at; if (n < 0) return; if (!stateOf(n).seen) edit(n, {set: {reviewed: data.by}}); step(1); },
  edit: () => startEdit(),
  speaker() {
    if (at < 0) return;
    const n = at, was = held(n, "speaker_name");
    choose(w().who, voices().map(([v]) => [v, v]), "", false, name => {
      name = clean(name); $("clip").focus({preventScroll: true});
      if (!name) return say(w().nobody, true);
      if (name.includes("|")) return say(w().pipe, true);
      if (name !== was) change(n, "speaker_name", name, was);
    });
  },
  part() {
    if (at < 0) return;
    const n = at, was = held(n, "split");
    choose(w().which, [["", w().noPart], ["train", "train"], ["val", "val"], ["test", "test"]], null, true, part => {
      $("clip").focus({preventScroll: true});
      if (part !== was) change(n, "split", part, was);
    });
  },
  drop() {
    if (at < 0) return;
    const n = at, plain = WORDS.en.reasons;
    choose(w().why, plain.map((r, i) => [r, w().reasons[i]]), "", true, why => {
      $("clip").focus({preventScroll: true});
      why = clean(why);
      if (why && why !== stateOf(n).drop) edit(n, {drop: why});
    });
  },
  restore() { if (at >= 0 && stateOf(at).drop) edit(at, {restore: true}); },
  undo, redo,
};
const BUTTONS = [["fine", "Enter", "main"], ["edit", "e"], ["speaker", "s"], ["part", "t"], ["drop", "d"], ["restore", "r"], ["undo", "u"], ["redo", "U"]];

// Show
function showHead() {
  document.documentElement.lang = prefs.language;
  document.title = `${w().title} · ${data.corpus}`;
  $("corpus").textContent = data.corpus;
  $("count").textContent = w().count(grouped(seen), grouped(N));
  $("progress").style.setProperty("--p", seen / N);
  const kept = $("kept");
  kept.textContent = server ? (pending.length ? w().waiting(pending.length) : w().kept) : w().here(pending.length);
  kept.classList.toggle("waiting", server && pending.length > 0);
  kept.dataset.pending = pending.length;
  $("save").hidden = server && !pending.length; $("save").disabled = !pending.length; $("save").textContent = w().save;
  $("lang").textContent = w().other; $("help").textContent = w().keys;
}
function fact(name, value, before) {
  const d = make("div"), dd = make("dd", value || "—");
  dd.dir = "auto"; d.append(make("dt", name), dd);
  if (before !== undefined && before !== value) { d.className = "changed"; d.title = `${w().was}: ${before || "—"}`; }
  return d;
}
function show() {
  showHead();
  const i = view.indexOf(at), filtered = view.length === N ? w().found(grouped(N), grouped(N)) : w().found(grouped(view.length), grouped(N));
  $("found").textContent = [filtered, w().by[data.ordered]].filter(Boolean).join(" · ");
  showList();
  for (const e of $("clip").children) if (!["edit", "text", "choose", "audio", "out"].includes(e.id)) e.hidden = at < 0;
  if (at < 0) { $("text").hidden = $("edit").hidden = $("out").hidden = false; $("edit").hidden = true; $("out").hidden = true; $("text").textContent = w().none; return; }
  const c = clips[at], s = stateOf(at);
  $("nth").textContent = i < 0 ? "—" : `${grouped(i + 1)} / ${grouped(view.length)}`;
  $("file").textContent = c.f;
  const text = $("text");
  text.textContent = s.v.text; text.dataset.none = w().empty; text.classList.toggle("gone", !!s.drop);
  text.lang = c.x.language || data.language; text.hidden = editing;
  $("out").hidden = !s.drop;
  const known = WORDS.en.reasons.indexOf(s.drop);
  $("out").replaceChildren(`${w().out}: ${known < 0 ? s.drop : w().reasons[known]}`);
  showReading(editing ? clean($("edit").value) : s.v.text);
  $("flags").replaceChildren(...Object.entries(c.g).map(([k, t]) => { const li = make("li"); li.append(make("b", k), make("span", t)); return li; }));
  const from = c.x.source ? `${c.x.source}${c.x.start !== undefined ? ` ${(+c.x.start).toFixed(2)}–${(+c.x.end).toFixed(2)} ${w().s}` : ""}` : "";
  $("facts").replaceChildren(fact(w().speaker, s.v.speaker_name, c.s), fact(w().split, s.v.split, c.p), ...(c.d ? [fact(w().seconds, `${c.d.toFixed(2)} ${w().s}`)] : []), ...(s.v.confidence ? [fact(w().confidence, s.v.confidence)] : []), ...(from ? [fact(w().source, from)] : []));
  $("actions").replaceChildren(...BUTTONS.map(([act, key, kind]) => {
    const b = button("", kind, () => { if (leave()) ACTS[act](); });
    b.append(make("kbd", key), w()[act]); b.dataset.act = act;
    b.disabled = act === "restore" && !s.drop;
    return b;
  }));
  $("play").setAttribute("aria-label", w().play);
  $("history").replaceChildren(...(byClip.get(at) || []).slice().reverse().map(e => past(e, s)));
  shapeOf(at).then(draw);
}
function past(e, s) {
  const li = make("li"), what = make("span", undefined, "what"), who = make("span", undefined, "who"), said = [];
  for (const [k, v] of Object.entries(e.set || {})) said.push(k === "reviewed" ? w().saidFine : `${k}: ${e.was && k in e.was ? `“${e.was[k]}” → ` : ""}“${v}”`);
  if (e.drop) said.push(w().saidOut + e.drop);
  if (e.restore) said.push(w().saidIn);
  what.textContent = said.join("; "); what.dir = "auto";
  if (s.odd.has(e)) what.append(make("span", ` (${w().odd})`, "odd"));
  const when = new Date(e.at);
  who.append(make("span", [e.by, isNaN(when) ? "" : when.toLocaleString(prefs.language)].filter(Boolean).join(", ")));
  if (gone.has(e.id)) li.className = "back"; else if (e.id) who.append(button(w().back, "plain", () => edit(null, {undo: e.id})));
  li.append(what, who);
  return li;
}
function help() {
  const box = $("keys"), list = make("dl");
  for (const [k, t] of w().help) { const d = make("div"), dt = make("dt"); k.split(" · ").forEach((p, i) => dt.append(i ? " " : "", make("kbd", p))); d.append(dt, make("dd", t)); list.append(d); }
  box.replaceChildren(make("h2", w().keys), list, make("p", w().helpNote));
  box.open ? box.close() : box.showModal();
}
function language() { prefs.language = prefs.language === "ka" ? "en" : "ka"; keepPrefs(); fillSieve(); readingOf = ""; show(); showTrouble(); if ($("keys").open) { $("keys").close(); help(); } }
function speed(by) { const all = [0.5, 0.75, 1, 1.25, 1.5, 2], i = all.indexOf(prefs.speed); prefs.speed = all[Math.max(0, Math.min(all.length - 1, (i < 0 ? 2 : i) + by))]; keepPrefs(); audio.playbackRate = prefs.speed; say(w().speed(prefs.speed)); }

// Keys: by the letter, and on a Georgian keyboard by its place
function letter(e) { return /^[a-z]$/i.test(e.key) ? e.key.toLowerCase() : /^Key[A-Z]$/.test(e.code) && e.key.length === 1 ? e.code[3].toLowerCase() : e.key; }
const KEYS = {
  " ": toggle, j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1), ArrowLeft: () => seek(-1), ArrowRight: () => seek(1),
  Home: () => view.length && go(view[0]), End: () => view.length && go(view[view.length - 1]), PageDown: () => step(10), PageUp: () => step(-10),
  Enter: ACTS.fine, e: ACTS.edit, s: ACTS.speaker, t: ACTS.part, d: ACTS.drop, r: ACTS.restore, u: undo, "/": () => { $("search").focus(); $("search").select(); }, f: () => $("flag").focus(),
  p: () => { prefs.auto = !prefs.auto; keepPrefs(); say(w().auto(prefs.auto)); }, "[": () => speed(-1), "]": () => speed(1), w: download, l: language, "?": help,
};
document.addEventListener("keydown", e => {
  const field = e.target.closest("input, select, textarea");
  if (field) {
    if (e.key === "Escape" || e.key === "Enter" && field.id === "search") { e.preventDefault(); $("clip").focus({preventScroll: true}); }
    return;
  }
  if (e.altKey || e.ctrlKey || e.metaKey) {
    if ((e.ctrlKey || e.metaKey) && letter(e) === "z") { e.preventDefault(); e.shiftKey ? redo() : undo(); }
    return;
  }
  const key = letter(e), act = key === "u" && e.shiftKey ? redo : KEYS[key];
  if (!act || $("keys").open && key !== "?") return;
  if (e.target.closest("button") && (key === " " || key === "Enter")) return; // The button's own
  e.preventDefault();
  act();
});

build();
adopt();
build();
fillSieve();
ordered = ""; at = place.get(prefs.at) ?? -1;
sieve();
if (at >= 0) opened();
show(); reveal();
for (const id of ["flag", "speaker", "state", "order"]) $(id).onchange = sieve;
$("speaker").onfocus = () => { const v = $("speaker").value; fillSieve(); $("speaker").value = v; };
let typing = 0;
$("search").oninput = () => { clearTimeout(typing); typing = setTimeout(sieve, 120); };
$("list").onscroll = showList;
$("play").onclick = toggle; $("lang").onclick = language; $("help").onclick = help; $("save").onclick = download;
addEventListener("resize", () => { showList(); draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("storage", e => { if (!server && e.key === WAITING) { adopt(); build(); show(); } });
if (server) { send(); setInterval(() => { if (document.visibilityState === "visible" && !sending) look(); }, 4000); }
document.documentElement.dataset.ready = "1";
