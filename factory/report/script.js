"use strict";
// Texts come from models and are hostile: they reach the page through textContent only, never as markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const el = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
    return node;
  };

  // ---- theme: the system's, until one is chosen
  const root = document.documentElement;
  const remembered = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
  if (remembered === "light" || remembered === "dark") root.dataset.theme = remembered;
  $("theme").onclick = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a file may have no storage */ }
  };

  // ---- charts: a tip under the pointer, or under the arrow keys
  const tip = $("tip");
  let lit = null;
  const light = (hit) => {
    if (lit) lit.classList.remove("on");
    lit = hit;
    tip.hidden = !hit;
    if (!hit) return;
    hit.classList.add("on");
    tip.textContent = hit.dataset.tip;
    const box = hit.getBoundingClientRect(), width = tip.offsetWidth;
    tip.style.left = Math.max(6, Math.min(innerWidth - width - 6, box.left + box.width / 2 - width / 2)) + "px";
    tip.style.top = Math.max(6, box.top - tip.offsetHeight - 6) + "px";
  };
  for (const canvas of document.querySelectorAll(".canvas")) {
    const hits = [...canvas.querySelectorAll(".hit")];
    canvas.onpointermove = (event) => light(event.target.closest(".hit"));
    canvas.onpointerleave = canvas.onblur = () => light(null);
    canvas.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !hits.length) return;
      event.preventDefault();
      const at = hits.indexOf(lit);
      light(hits[at < 0 ? (step > 0 ? 0 : hits.length - 1) : Math.max(0, Math.min(hits.length - 1, at + step))]);
    };
  }
  addEventListener("scroll", () => light(null), { passive: true });

  // ---- the map: each point has a colour for each thing it may be coloured by
  const colours = $("colours");
  if (colours) colours.onchange = (event) => {
    const key = Number(event.target.value);
    for (const point of document.querySelectorAll(".pt")) point.setAttribute("class", "hit pt c" + point.dataset.c[key]);
    for (const legend of document.querySelectorAll("[data-key]")) legend.hidden = Number(legend.dataset.key) !== key;
  };

  // ---- code: enough colour to read by
  const WORDS = new Set(("and as assert async await break case catch class const continue def default del do elif else enum " +
    "except export extends False final finally fn for from func function global if impl import in interface is lambda let " +
    "match mod mut new None nonlocal not null or package pass private protected pub public raise return self static " +
    "struct super switch this throw True true false try type use var void while with yield int bool string").split(" "));
  const STRINGS = String.raw`"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?`;
  const REST = String.raw`(\b\d[\w.]*)|([A-Za-z_]\w*)(?=(\s*\()?)`;
  const HASH = new RegExp(`(#[^\\n]*)|(${STRINGS})|${REST}`, "g");
  const SLASH = new RegExp(`(\\/\\/[^\\n]*|\\/\\*[\\s\\S]*?(?:\\*\\/|$))|(${STRINGS}|\`(?:\\\\.|[^\`\\\\])*\`?)|${REST}`, "g");
  const SLASHED = /^(js|javascript|jsx|ts|tsx|typescript|java|c|h|cc|cpp|c\+\+|cs|csharp|go|rust|rs|kotlin|swift|scala|php)$/i;
  const code = (text, language) => {
    const box = el("code");
    let at = 0;
    for (const found of text.matchAll(SLASHED.test(language || "") ? SLASH : HASH)) {
      const [whole, comment, string, digits, word, call] = found;
      const kind = comment ? "c" : string ? "s" : digits ? "d" : WORDS.has(word) ? "k" : call ? "f" : "";
      if (!kind) continue;
      box.append(text.slice(at, found.index), el("span", { className: kind, textContent: whole }));
      at = found.index + whole.length;
    }
    box.append(text.slice(at));
    return el("pre", { tabIndex: 0 }, box);
  };
  const prose = (text, language) => text.split(/(^```[^\n]*\n[\s\S]*?(?:^```[ \t]*$|$(?![\s\S])))/m).filter(Boolean).map((part) => {
    const fence = /^```([^\n]*)\n([\s\S]*?)\n?(?:```[ \t]*)?$/.exec(part);
    if (fence) return code(fence[2], fence[1].trim() || language);
    return part.trim() ? el("p", { textContent: part.trim() }) : null;
  });

  // ---- records
  const list = $("list");
  if (!list) return;
  const all = JSON.parse($("samples").textContent);
  const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 1));
  const texts = new Map();
  const searchable = (record) => {
    if (!texts.has(record)) texts.set(record, JSON.stringify(record).replaceAll("\\n", " ").toLowerCase());
    return texts.get(record);
  };
  const headline = (record) => {
    const asked = record.turns.find((turn) => turn.role === "user") || record.turns[0];
    const seed = record.meta.seed && typeof record.meta.seed === "object" ? record.meta.seed : record.meta;
    const told = asked ? asked.content : Object.entries(seed).map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join(", ");
    return told.trim().slice(0, 160) || "(no text)";
  };

  const reason = $("reason");
  const counts = new Map();
  for (const record of all) if (!record.kept) {
    for (const key of new Set(["g" + record.group, "r" + record.reason])) counts.set(key, (counts.get(key) || 0) + 1);
  }
  for (const group of [...new Set(all.filter((record) => !record.kept).map((record) => record.group))].sort()) {
    const own = [...new Set(all.filter((record) => !record.kept && record.group === group).map((record) => record.reason))].sort();
    const add = (value, text) => reason.append(el("option", { value, textContent: `${text.slice(0, 90)} (${counts.get(value)})` }));
    if (own.length > 1) add("g" + group, group + ": all");
    for (const why of own) add("r" + why, why || "no reason given");
  }

  let rows = [], at = -1;
  const scoreRow = (name, [value, why, detail]) => {
    const cell = el("td", { className: "value-cell" }, value === null ? "not a number" : String(Math.round(value * 1e4) / 1e4));
    if (value !== null && value >= 0 && value <= 1) cell.prepend(el("meter", { min: 0, max: 1, value, ariaLabel: name }), " ");
    const more = Object.keys(detail || {}).length ? Object.entries(detail).map(([key, item]) => `${key}: ${shown(item)}`).join(" · ") : "";
    return el("tr", {}, el("th", { textContent: name, scope: "row" }), cell, el("td", {}, why, why && more ? el("br") : "", el("span", { className: "dim", textContent: more })));
  };
  const status = (verdict) => (verdict && typeof verdict === "object" ? String(verdict.status ?? verdict.verdict ?? "") : String(verdict ?? ""));
  const passed = (text) => /^(pass|passed|ok|true)$/i.test(text);
  // One mark a test: from a verdict for each, else from a verdict on all of them.
  const marks = (tests, verdict) => {
    const each = Array.isArray(verdict) ? verdict : verdict && (verdict.tests || verdict.results);
    if (Array.isArray(each) && each.length === tests.length) return each.map((one) => status(one === true ? "pass" : one === false ? "fail" : one));
    return tests.map(() => (passed(status(verdict)) ? "pass" : ""));
  };
  const testList = (tests, verdict) => el("ul", { className: "tests" }, marks(tests, verdict).map((mark, i) =>
    el("li", { className: mark ? (passed(mark) ? "pass" : "fail") : "" },
      el("i", { textContent: mark ? (passed(mark) ? "✓" : "✗") : "·", title: mark || "no verdict of its own" }),
      el("code", { textContent: shown(tests[i]) }), mark && !passed(mark) ? el("span", { className: "dim", textContent: mark }) : "")));
  const verdictOf = (record) => {
    const last = record.attempts.at(-1), score = record.scores.execution;
    if (last && typeof last.verdict === "object") return last.verdict;
    if (score && score[2] && score[2].status) return score[2];
    return last ? last.verdict : score ? (score[0] === 1 ? "pass" : "") : "";
  };
  const attempt = (one, i, record) => {
    const verdict = status(one.verdict) || "no verdict";
    return el("div", { className: "attempt" + (passed(verdict) ? " ok" : "") },
      el("b", { textContent: `Attempt ${i + 1}: ${verdict}` }),
      one.feedback ? el("p", { textContent: shown(one.feedback) }) : "",
      one.final ? el("p", { textContent: "This is the solution above." }) : "",
      one.code ? code(shown(one.code), record.language) : "");
  };
  const copyButton = (text, what) => el("button", { type: "button", textContent: "Copy " + what, onclick: async (event) => {
    const button = event.currentTarget;
    try { await navigator.clipboard.writeText(text); } catch {
      const field = el("textarea", { value: text });
      document.body.append(field); field.select(); document.execCommand("copy"); field.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy " + what; }, 1200);
  } });
  const part = (title, ...content) => (content.flat().some(Boolean) ? [el("h3", { textContent: title }), ...content.flat()] : []);
  const show = (record) => {
    const [requests, read, written, seconds] = record.usage;
    const told = `python -m factory explain ${record.id.slice(0, 12)}`;
    const facts = [record.topic, `seed ${record.place[0]}`, `${requests} requests`, `${read.toLocaleString("en")} tokens in, ${written.toLocaleString("en")} out`, `${seconds.toFixed(1)} s`];
    const scores = Object.entries(record.scores);
    const checks = verdictOf(record);
    const summary = checks && typeof checks === "object" && checks.total !== undefined ? ` · ${checks.passed} of ${checks.total} passed` : "";
    const meta = Object.keys(record.meta).length ? code(shown(record.meta), "json") : "";
    $("record").replaceChildren(
      el("div", { className: "ident" }, el("span", { className: "chip " + (record.kept ? "good" : "warn"), textContent: record.kept ? "Kept" : "Rejected" }), el("code", { textContent: record.id }), copyButton(record.id, "id")),
      record.kept ? "" : el("p", { className: "why-lost" }, el("b", { textContent: record.reason || "no reason given" })),
      el("p", { className: "sub", textContent: facts.filter(Boolean).join(" · ") }),
      el("p", { className: "sub ident" }, el("code", { textContent: told }), copyButton(told, "command")),
      ...part("Scores", scores.length ? el("table", {}, el("tbody", {}, scores.map(([name, score]) => scoreRow(name, score)))) : ""),
      ...part("Conversation", record.turns.map((turn) => el("div", { className: "turn " + turn.role }, el("b", { textContent: turn.role }), prose(turn.content, record.language)))),
      ...part("Solution", record.solution ? code(shown(record.solution), record.language) : ""),
      ...part("Tests" + summary, record.tests.length ? testList(record.tests, checks) : ""),
      ...part("Attempts", record.attempts.map((one, i) => attempt(one, i, record))),
      ...part("Made from", record.parents.map((id) => el("p", {}, el("code", { textContent: id })))),
      ...part("Metadata", meta),
    );
    $("record").scrollTop = 0;
  };
  const select = (index) => {
    at = Math.max(-1, Math.min(rows.length - 1, index));
    for (const old of list.querySelectorAll("[aria-selected=true]")) old.setAttribute("aria-selected", "false");
    $("prev").disabled = at <= 0;
    $("next").disabled = at >= rows.length - 1;
    if (at < 0) { $("record").replaceChildren(el("p", { className: "empty", textContent: "No record fits these filters." })); list.removeAttribute("aria-activedescendant"); return; }
    const row = list.children[at];
    row.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", row.id);
    if (row.offsetTop < list.scrollTop || row.offsetTop + row.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = row.offsetTop - list.clientHeight / 3;
    show(rows[at]);
  };
  const filter = () => {
    const fate = document.querySelector("input[name=fate]:checked").value, why = reason.value;
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    rows = all.filter((record) => (!fate || record.kept === (fate === "kept")) &&
      (!why || (!record.kept && (why[0] === "g" ? record.group : record.reason) === why.slice(1))) &&
      words.every((word) => searchable(record).includes(word)));
    list.replaceChildren(...rows.map((record, i) => el("li", { id: "row" + i, role: "option", className: record.kept ? "ok" : "", ariaSelected: "false", onclick: () => select(i) },
      el("b", { textContent: headline(record) }), el("small", { textContent: [record.kept ? "kept" : record.reason || "no reason given", record.topic].filter(Boolean).join(" · ") }))));
    $("found").textContent = `${rows.length} of ${all.length} shown`;
    select(rows.length ? 0 : -1);
  };
  for (const input of document.querySelectorAll("input[name=fate]")) input.onchange = () => { if (input.value === "kept") reason.value = ""; filter(); };
  reason.onchange = () => { if (reason.value) document.querySelector("input[name=fate][value='']").checked = true; filter(); };
  let waiting = 0;
  $("search").oninput = () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); };
  $("prev").onclick = () => select(at - 1);
  $("next").onclick = () => select(at + 1);
  list.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key];
    if (step) { event.preventDefault(); select(Math.max(0, at + step)); }
  };
  document.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "j") select(at + 1);
    else if (event.key === "k") select(Math.max(0, at - 1));
    else if (event.key === "/") { event.preventDefault(); $("search").focus(); }
  };
  for (const button of document.querySelectorAll("[data-reason]")) {
    const value = "r" + button.dataset.reason;
    if (!counts.has(value)) { button.disabled = true; button.title = "none of them is embedded in this report"; continue; }
    button.onclick = () => {
      $("search").value = "";
      reason.value = value;
      reason.onchange();
      $("records").scrollIntoView();
    };
  }
  const wanted = all.findIndex((record) => location.hash === "#" + record.id);
  filter();
  if (wanted >= 0) { select(wanted); $("records").scrollIntoView(); }
})();
