// The part of a report about robustness: two networks on the same images.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("robustness-data").textContent);
  const MEASURES = { angle: "degrees", length: "", margin: "" };
  const PLOTS = [["angle", "length"], ["angle", "margin"], ["length", "margin"]];
  // Shapes differ as well as colours, and so does what is filled.
  const KINDS = {
    lost: { text: "right, then wrong", path: "M-6-5H6L0 6Z" },
    gained: { text: "wrong, then right", path: "M-5 4H5L0-5Z" },
    moved: { text: "wrong, then another wrong class", path: "M0-6L6 0L0 6L-6 0Z" },
    wrong: { text: "wrong twice", path: "M-3-3L3 3M-3 3L3-3" },
    right: { text: "right twice", path: "M-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0" },
  };
  const FLIPS = ["lost", "gained", "moved"];
  const BOX = { width: 320, height: 280, left: 46, right: 10, top: 10, bottom: 40 };
  const SVG = "http://www.w3.org/2000/svg";

  const byId = (id) => document.getElementById(id);
  const all = data.labels.map((_, index) => index);
  let chosen = null; // the number of an image
  let samples = []; // what the controls select, one for each image

  function element(parent, name, attributes = {}, text = null, space = null) {
    const made = space
      ? document.createElementNS(space, name)
      : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      made.setAttribute(key, value);
    }
    if (text !== null) made.textContent = text;
    return parent.appendChild(made);
  }
  const drawing = (parent, name, attributes, text = null) =>
    element(parent, name, attributes, text, SVG);

  const signed = (value, digits = 2) =>
    (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(digits);
  const plain = (value) => value.toFixed(2).replace("-", "\u2212");

  // What the controls say.

  function conditions() {
    const strength = Number(byId("strength").value);
    const corruption = Number(byId("corruption").value);
    const count = data.strengths.length;
    const second = strength ? 1 + corruption * count + strength - 1 : 0;
    return { first: byId("clean").checked ? 0 : second, second };
  }

  function kindOf(label, before, after) {
    if (before === label) return after === label ? "right" : "lost";
    if (after === label) return "gained";
    return before === after ? "wrong" : "moved";
  }

  function readSamples() {
    const [first, second] = [Number(byId("first").value), Number(byId("second").value)];
    const condition = conditions();
    return all.map((index) => {
      const label = data.labels[index];
      const before = data.prediction[first][condition.first][index];
      const after = data.prediction[second][condition.second][index];
      const sample = { index, label, before, after, kind: kindOf(label, before, after) };
      for (const measure of Object.keys(MEASURES)) {
        const from = data[measure][first][condition.first][index];
        const to = data[measure][second][condition.second][index];
        sample[measure] = { from, to, change: to - from };
      }
      return sample;
    });
  }

  const flipping = () =>
    samples
      .filter((sample) => FLIPS.includes(sample.kind))
      .sort((a, b) => a.margin.change - b.margin.change);
  const shown = () => (byId("shown").value === "flips" ? flipping() : samples);

  const described = (sample) =>
    `image ${sample.index}, true class ${sample.label}, ` +
    `${sample.before} then ${sample.after}: ${KINDS[sample.kind].text}`;

  // Thumbnails are cut from one sheet for each of the two conditions.

  function thumbnail(parent, index, side, label) {
    const { width, height, columns } = data;
    const [column, row] = [index % columns, Math.floor(index / columns)];
    const box = `${column * width} ${row * height} ${width} ${height}`;
    const svg = drawing(parent, "svg", { class: "thumbnail", viewBox: box });
    if (label) {
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", label);
    } else {
      svg.setAttribute("aria-hidden", "true");
    }
    drawing(svg, "use", { href: `#sheet-${side}` });
  }

  function mark(parent, kind, name = "mark") {
    const box = { class: name, viewBox: "-7 -7 14 14", "aria-hidden": "true" };
    const svg = drawing(parent, "svg", box);
    drawing(svg, "path", { class: kind, d: KINDS[kind].path });
  }

  // Plots.

  function ticks(low, high) {
    const rough = (high - low) / 6;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const found = [];
    for (let at = Math.ceil(low / step); at * step <= high; at++) found.push(at * step);
    return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step))) };
  }

  function scale(measure, start, end) {
    // Of all samples, so that hiding some moves none.
    const changes = samples.map((sample) => sample[measure].change);
    let low = Math.min(0, ...changes);
    let high = Math.max(0, ...changes);
    if (high - low < 1e-9) [low, high] = [-1, 1];
    const room = 0.06 * (high - low);
    [low, high] = [low - room, high + room];
    const place = (value) => start + ((value - low) / (high - low)) * (end - start);
    return { place, ...ticks(low, high) };
  }

  const axisText = (measure) =>
    `change of ${measure}` + (MEASURES[measure] ? ` (${MEASURES[measure]})` : "");

  function drawAxes(svg, x, y, across, upward) {
    const right = BOX.width - BOX.right;
    const bottom = BOX.height - BOX.bottom;
    const text = (value, digits) =>
      Math.abs(value) < 1e-9 ? "0" : value.toFixed(digits).replace("-", "\u2212");
    for (const value of x.values) {
      const at = x.place(value);
      const kind = Math.abs(value) < 1e-9 ? "zero" : "axis";
      drawing(svg, "line", { x1: at, x2: at, y1: BOX.top, y2: bottom, class: kind });
      const spot = { x: at, y: bottom + 14, "text-anchor": "middle" };
      drawing(svg, "text", spot, text(value, x.digits));
    }
    for (const value of y.values) {
      const at = y.place(value);
      const kind = Math.abs(value) < 1e-9 ? "zero" : "axis";
      drawing(svg, "line", { x1: BOX.left, x2: right, y1: at, y2: at, class: kind });
      const spot = { x: BOX.left - 5, y: at + 4, "text-anchor": "end" };
      drawing(svg, "text", spot, text(value, y.digits));
    }
    const middle = (BOX.left + right) / 2;
    const under = { x: middle, y: BOX.height - 8, "text-anchor": "middle" };
    drawing(svg, "text", under, axisText(across));
    const beside = `translate(12 ${(BOX.top + bottom) / 2}) rotate(-90)`;
    const turned = { transform: beside, "text-anchor": "middle" };
    drawing(svg, "text", turned, axisText(upward));
  }

  function drawPlot(svg, number) {
    const [across, upward] = PLOTS[number];
    const x = scale(across, BOX.left, BOX.width - BOX.right);
    const y = scale(upward, BOX.height - BOX.bottom, BOX.top);
    svg.replaceChildren();
    const axes = drawing(svg, "g", { "aria-hidden": "true" });
    drawAxes(axes, x, y, across, upward);
    svg.places = new Map();
    // Those that flip lie on top.
    const order = Object.keys(KINDS).reverse();
    const visible = [...shown()].sort(
      (a, b) => order.indexOf(a.kind) - order.indexOf(b.kind),
    );
    for (const sample of visible) {
      const at = [x.place(sample[across].change), y.place(sample[upward].change)];
      svg.places.set(sample.index, at);
      drawing(svg, "path", {
        id: `mark-${number}-${sample.index}`,
        class: sample.kind,
        d: KINDS[sample.kind].path,
        transform: `translate(${at[0].toFixed(1)} ${at[1].toFixed(1)})`,
        role: "option",
        "aria-selected": "false",
        "aria-label":
          `${described(sample)}, ${across} ${signed(sample[across].change)}, ` +
          `${upward} ${signed(sample[upward].change)}`,
      });
    }
    svg.ring = drawing(svg, "g", { class: "chosen", "aria-hidden": "true" });
    drawing(svg.ring, "circle", { r: 9 });
    drawing(svg.ring, "path", { d: "M-16 0H-9M9 0H16M0-16V-9M0 9V16" });
  }

  function nearest(svg, event) {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * BOX.width;
    const y = ((event.clientY - box.top) / box.height) * BOX.height;
    let best = { index: null, distance: 24 };
    for (const [index, at] of svg.places) {
      const distance = Math.hypot(at[0] - x, at[1] - y);
      if (distance < best.distance) best = { index, distance };
    }
    return best.index;
  }

  // One sample is chosen, in all places.

  function moved(order, key) {
    const at = order.indexOf(chosen);
    if (key === "Home") return order[0];
    if (key === "End") return order[order.length - 1];
    const forward = key === "ArrowRight" || key === "ArrowDown";
    if (at < 0) return forward ? order[0] : order[order.length - 1];
    return order[Math.min(order.length - 1, Math.max(0, at + (forward ? 1 : -1)))];
  }
  const KEYS = "Home End ArrowLeft ArrowRight ArrowUp ArrowDown".split(" ");

  function keysInPlot(event, number) {
    if (!KEYS.includes(event.key)) return;
    event.preventDefault();
    const upright = event.key === "ArrowUp" || event.key === "ArrowDown";
    const measure = PLOTS[number][upright ? 1 : 0];
    const order = [...shown()]
      .sort((a, b) => a[measure].change - b[measure].change || a.index - b.index)
      .map((sample) => sample.index);
    // Up is more.
    const swapped = { ArrowUp: "ArrowDown", ArrowDown: "ArrowUp" };
    if (order.length) choose(moved(order, swapped[event.key] || event.key));
  }

  function keysInList(event) {
    if (!KEYS.includes(event.key)) return;
    event.preventDefault();
    const order = flipping().map((sample) => sample.index);
    if (order.length) choose(moved(order, event.key));
  }

  function markIn(container, prefix) {
    for (const old of container.querySelectorAll("[aria-selected=true]")) {
      old.setAttribute("aria-selected", "false");
    }
    const found = byId(`${prefix}-${chosen}`);
    if (found) {
      found.setAttribute("aria-selected", "true");
      container.setAttribute("aria-activedescendant", found.id);
    } else {
      container.removeAttribute("aria-activedescendant");
    }
    return found;
  }

  function choose(index) {
    chosen = index;
    plots.forEach((svg, number) => {
      markIn(svg, `mark-${number}`);
      const at = svg.places.get(chosen);
      svg.ring.style.display = at ? "" : "none";
      if (at) svg.ring.setAttribute("transform", `translate(${at[0]} ${at[1]})`);
    });
    const list = byId("flips");
    const item = markIn(list, "flip");
    // The list scrolls, and the page stays where it is.
    if (item && item.offsetTop < list.scrollTop) list.scrollTop = item.offsetTop - 6;
    const below = item ? item.offsetTop + item.offsetHeight - list.clientHeight : 0;
    if (item && below > list.scrollTop) list.scrollTop = below + 6;
    drawSample();
  }

  function drawSample() {
    const place = byId("sample");
    place.replaceChildren();
    if (chosen === null) return;
    const sample = samples[chosen];
    element(place, "h3", {}, `Image ${chosen}: true class ${sample.label}`);
    const seen = element(place, "div", { class: "seen" });
    for (const side of ["first", "second"]) {
      const name = data.networks[Number(byId(side).value)];
      const predicted = side === "first" ? sample.before : sample.after;
      const verdict = predicted === sample.label ? "right" : "wrong";
      const figure = element(seen, "figure");
      thumbnail(figure, chosen, side, `Image ${chosen} as the ${side} network sees it`);
      element(figure, "figcaption", {}, `${name}: ${predicted}, ${verdict}`);
    }
    const table = element(place, "table");
    const head = element(element(table, "thead"), "tr");
    for (const title of ["last features", "first", "second", "change"]) {
      element(head, "th", { scope: "col" }, title);
    }
    const body = element(table, "tbody");
    for (const [measure, unit] of Object.entries(MEASURES)) {
      const row = element(body, "tr");
      element(row, "th", { scope: "row" }, measure + (unit ? ` (${unit})` : ""));
      const { from, to, change } = sample[measure];
      for (const text of [plain(from), plain(to), signed(change)]) {
        element(row, "td", {}, text);
      }
    }
  }

  function drawList() {
    const list = byId("flips");
    list.replaceChildren();
    for (const sample of flipping()) {
      const item = element(list, "li", {
        id: `flip-${sample.index}`,
        role: "option",
        "aria-selected": "false",
        "aria-label": described(sample),
      });
      thumbnail(item, sample.index, "second", "");
      mark(item, sample.kind);
      const text = element(item, "span");
      element(text, "span", {}, `${sample.before} \u2192 ${sample.after}`);
      element(text, "small", {}, `true: ${sample.label}`);
      item.addEventListener("click", () => choose(sample.index));
    }
    if (!list.children.length) {
      const none = { class: "none", role: "option", "aria-disabled": "true" };
      element(list, "li", none, "No sample flips.");
    }
  }

  function drawSummary() {
    const counts = {};
    for (const kind of Object.keys(KINDS)) {
      counts[kind] = samples.filter((sample) => sample.kind === kind).length;
    }
    const share = (wrong) => `${((100 * wrong) / samples.length).toFixed(1)} %`;
    const before = share(counts.gained + counts.moved + counts.wrong);
    const after = share(counts.lost + counts.moved + counts.wrong);
    const flips = counts.lost + counts.gained + counts.moved;
    byId("robustness-summary").textContent =
      `Error: ${before}, then ${after}. ${flips} of ${samples.length} samples flip: ` +
      `${counts.lost} become wrong, ${counts.gained} become right and ` +
      `${counts.moved} go from one wrong class to another.`;
    byId("flips-title").textContent = `Samples that flip (${flips})`;
    const legend = byId("legend");
    legend.replaceChildren();
    for (const [kind, { text }] of Object.entries(KINDS)) {
      const item = element(legend, "li");
      mark(item, kind);
      element(item, "span", {}, `${text}: ${counts[kind]}`);
    }
  }

  function draw() {
    const condition = conditions();
    const strength = byId("strength").value;
    byId("strength-text").textContent = strength === "0" ? "0 (clean)" : strength;
    byId("sheet-first").setAttribute("href", data.sheets[condition.first]);
    byId("sheet-second").setAttribute("href", data.sheets[condition.second]);
    samples = readSamples();
    drawSummary();
    drawList();
    plots.forEach(drawPlot);
    if (chosen === null && flipping().length) chosen = flipping()[0].index;
    choose(chosen);
  }

  // Once.

  function fill(id, names, value) {
    names.forEach((name, index) => element(byId(id), "option", { value: index }, name));
    byId(id).value = value;
  }
  fill("first", data.networks, 0);
  fill("second", data.networks, data.networks.length - 1);
  fill("corruption", data.corruptions, 0);
  byId("strength").max = data.strengths.length;
  byId("strength").value = Math.min(2, data.strengths.length);
  // One network alone is compared with itself on clean images.
  byId("clean").checked = data.networks.length === 1;

  const sheets = drawing(document.body, "svg", { class: "sheets", "aria-hidden": "true" });
  for (const side of ["first", "second"]) {
    drawing(drawing(sheets, "defs"), "image", {
      id: `sheet-${side}`,
      width: data.columns * data.width,
      height: Math.ceil(all.length / data.columns) * data.height,
    });
  }
  const plots = PLOTS.map(([across, upward], number) => {
    const svg = drawing(byId("plots"), "svg", {
      class: "plot",
      viewBox: `0 0 ${BOX.width} ${BOX.height}`,
      role: "listbox",
      tabindex: "0",
      "aria-label": `Samples by change of ${across} and change of ${upward}`,
    });
    svg.addEventListener("keydown", (event) => keysInPlot(event, number));
    svg.addEventListener("click", (event) => {
      const index = nearest(svg, event);
      if (index !== null) choose(index);
    });
    return svg;
  });
  byId("flips").addEventListener("keydown", keysInList);
  for (const id of ["first", "second", "corruption", "strength", "shown", "clean"]) {
    byId(id).addEventListener("input", draw);
  }
  draw();
})();
