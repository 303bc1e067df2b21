"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const hidden = new Set();
  const LEFT = 64, RIGHT = 16, TOP = 12, BOTTOM = 46;
  const color = (method) => `var(--m${method % 8})`;

  const element = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const svgElement = (name, attributes = {}, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.textContent = text;
    return node;
  };
  const dot = (method) => element("span", { class: "dot", style: `background: ${color(method)}` });

  // Round numbers within a range, about `count` of them, and the digits behind the point that they need.
  const ticks = (low, high, count) => {
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    const numbers = [];
    // Adding 0 turns -0, which would be shown as "-0", into 0.
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) numbers.push(k * step + 0);
    return [numbers, Math.max(0, Math.min(8, Math.ceil(-Math.log10(step) - 1e-9)))];
  };
  const UNITS = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]];
  const unit = (most) => UNITS.find(([scale]) => most >= scale) || UNITS[4];
  const number = (value, digits) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const short = (value) => number(value, Math.abs(value) >= 1000 ? 0 : Math.abs(value) >= 10 ? 2 : 4);

  // Draws a chart into `place`. `lines` is [{method, points: [[x, y, deviation]]}], in the units of the axes.
  const chart = (place, lines, { xName, yName, fromZero = false, steps = false, shownX = short }) => {
    place.replaceChildren();
    const WIDTH = Math.max(300, place.clientWidth), HEIGHT = Math.min(400, 0.65 * WIDTH);
    const points = lines.flatMap((line) => line.points);
    if (!points.length) {
      place.append(element("p", { class: "quiet" }, "Nothing to show: all methods are hidden, or none has these numbers."));
      return;
    }
    const xs = points.map((p) => p[0]);
    const ys = points.flatMap((p) => [p[1] - (p[2] || 0), p[1] + (p[2] || 0)]);
    const range = (values, zero) => {
      let low = zero ? 0 : Math.min(...values), high = Math.max(...values);
      if (low === high) { low -= 0.5; high += 0.5; }
      return [low, high];
    };
    const [x0, x1] = range(xs, false);
    let [y0, y1] = range(ys, fromZero);
    const margin = (y1 - y0) * 0.05;
    y1 += margin;
    if (!fromZero) y0 -= margin;
    const px = (x) => LEFT + ((x - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
    const py = (y) => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
    const svg = svgElement("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${yName} by ${xName}` });
    const [xTicks, xDigits] = ticks(x0, x1, WIDTH > 500 ? 6 : 3), [yTicks, yDigits] = ticks(y0, y1, 6);
    for (const y of yTicks) {
      svg.append(svgElement("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: py(y), y2: py(y) }));
      svg.append(svgElement("text", { x: LEFT - 8, y: py(y) + 4, "text-anchor": "end" }, number(y, yDigits)));
    }
    for (const x of xTicks) svg.append(svgElement("text", { x: px(x), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, number(x, xDigits)));
    svg.append(svgElement("line", { class: "frame", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
    svg.append(svgElement("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, xName));
    svg.append(svgElement("text", { transform: `translate(14 ${(HEIGHT - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" }, yName));
    for (const { method, points: all } of lines) {
      if (all.some((p) => p[2])) {
        const edge = (sign) => all.map((p) => `${px(p[0])},${py(p[1] + sign * (p[2] || 0))}`);
        svg.append(svgElement("polygon", { class: "band", points: [...edge(1), ...edge(-1).reverse()].join(" "), fill: color(method) }));
      }
      let path = "";
      all.forEach(([x, y], i) => {
        if (steps && i) path += `H${px(x)}`;
        path += `${i ? "L" : "M"}${px(x)},${py(y)}`;
      });
      svg.append(svgElement("path", { class: "series", d: path, style: `stroke: ${color(method)}` }));
      if (all.length === 1) svg.append(svgElement("circle", { cx: px(all[0][0]), cy: py(all[0][1]), r: 4, style: `fill: ${color(method)}` }));
    }
    const cross = svgElement("line", { class: "cross", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    svg.append(cross);
    const tip = element("div", { class: "tip", hidden: "" });
    place.append(svg, tip);
    const move = (event) => {
      const box = svg.getBoundingClientRect();
      const at = x0 + (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT) * (x1 - x0);
      // In steps a value holds from its own x to the next one.
      const near = (all) => steps
        ? all.filter((p) => p[0] <= at).at(-1) || all[0]
        : all.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
      const here = near(lines.flatMap((line) => line.points).sort((a, b) => a[0] - b[0]));
      cross.setAttribute("x1", px(here[0]));
      cross.setAttribute("x2", px(here[0]));
      cross.setAttribute("visibility", "visible");
      tip.replaceChildren(element("div", {}, `${shownX(here[0])} ${xName}`));
      for (const { method, points: all } of lines) {
        const [, y, deviation] = near(all);
        const spread = deviation ? ` ± ${short(deviation)}` : "";
        tip.append(element("div", {}, dot(method), `${data.methods[method]}: ${short(y)}${spread}`));
      }
      tip.hidden = false;
      const left = (px(here[0]) / WIDTH) * box.width;
      tip.style.left = `${left + 12 + tip.offsetWidth > box.width ? Math.max(0, left - 12 - tip.offsetWidth) : left + 12}px`;
      tip.style.top = "12px";
    };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerdown", move);
    svg.addEventListener("pointerleave", () => {
      tip.hidden = true;
      cross.setAttribute("visibility", "hidden");
    });
  };

  // Mean and standard deviation of a sample; the deviation of a single value is 0.
  const spread = (values) => {
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const squares = values.reduce((a, b) => a + (b - mean) ** 2, 0);
    return [mean, values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0];
  };

  // The points of a method: mean and deviation over its seeds, at the rounds that all of them evaluated.
  const overSeeds = (runs, axis) => {
    const shared = runs[0].rounds.filter((round) => runs.every((run) => run.rounds.includes(round)));
    return shared.map((round) => {
      const places = runs.map((run) => run.rounds.indexOf(round));
      const [x] = spread(runs.map((run, i) => run[axis][places[i]]));
      const [y, deviation] = spread(runs.map((run, i) => run.values[places[i]]));
      return [x, y, deviation];
    });
  };

  // A menu with its label, and the menu alone, whose value is the index of the chosen option.
  const choice = (label, options, changed) => {
    const select = element("select", {});
    options.forEach((text, i) => select.append(element("option", { value: i }, text)));
    select.addEventListener("change", changed);
    return [element("label", {}, label, select), select];
  };

  // Prepares the section of curves, and returns the function that draws it.
  const curves = () => {
    const section = document.getElementById("curves");
    const [controls, place] = [section.querySelector(".controls"), section.querySelector(".chart")];
    const AXES = [["rounds", "rounds"], ["bytes", "bytes sent"], ["seconds", "seconds"]];
    const [one, what] = choice("Metric", data.curves.map((c) => c.title), () => draw());
    const [two, by] = choice("by", AXES.map(([, name]) => name), () => draw());
    controls.append(one, two);
    section.hidden = false;
    const draw = () => {
      const { name, series } = data.curves[what.value];
      const [axis] = AXES[by.value];
      let lines = data.methods.map((_, method) => {
        const runs = series.filter((run) => run.method === method);
        return { method, points: runs.length && !hidden.has(method) ? overSeeds(runs, axis) : [] };
      }).filter((line) => line.points.length);
      let xName = axis;
      if (axis === "bytes") {
        const [scale, letters] = unit(Math.max(...lines.flatMap((line) => line.points.map((p) => p[0]))));
        lines = lines.map(({ method, points }) => ({ method, points: points.map(([x, ...rest]) => [x / scale, ...rest]) }));
        xName = `${letters} sent by and to clients`;
      }
      chart(place, lines, { xName, yName: name, shownX: (x) => number(x, axis === "rounds" ? 0 : 1) });
    };
    return draw;
  };

  // Prepares the section of distributions over clients, and returns the function that draws it.
  const clients = () => {
    const section = document.getElementById("clients");
    const [controls, place] = [section.querySelector(".controls"), section.querySelector(".chart")];
    const KINDS = ["distribution", "cumulative"];
    const [one, what] = choice("Metric", data.clients.map((c) => c.title), () => draw());
    const [two, kind] = choice("as", KINDS, () => draw());
    controls.append(one, two);
    section.hidden = false;
    const draw = () => {
      const { name, edges, series } = data.clients[what.value];
      const cumulative = KINDS[kind.value] === "cumulative";
      const lines = series.filter((s) => !hidden.has(s.method)).map(({ method, shares }) => {
        let sum = 0;
        const points = shares.map((share, i) => [edges[cumulative ? i + 1 : i], 100 * (cumulative ? (sum += share) : share), 0]);
        if (cumulative) points.unshift([edges[0], 0, 0]);
        else points.push([edges.at(-1), 0, 0]);
        return { method, points };
      });
      const yName = cumulative ? "% of the clients have at most this" : "% of the clients";
      chart(place, lines, { xName: `${name} of a client`, yName, fromZero: true, steps: !cumulative });
    };
    return draw;
  };

  const draws = [];
  if (data.curves.length) draws.push(curves());
  if (data.clients.length) draws.push(clients());
  const redraw = () => draws.forEach((draw) => draw());
  const legend = document.getElementById("legend");
  data.methods.forEach((label, method) => {
    const button = element("button", { type: "button", "aria-pressed": "true" }, dot(method), label);
    button.addEventListener("click", () => {
      if (!hidden.delete(method)) hidden.add(method);
      button.setAttribute("aria-pressed", String(!hidden.has(method)));
      redraw();
    });
    legend.append(button);
  });
  for (const cell of document.querySelectorAll("[data-method]")) cell.prepend(dot(Number(cell.dataset.method)));
  const toggle = document.getElementById("all-settings");
  if (toggle) {
    const table = document.querySelector("table.settings");
    const show = (few) => {
      table.classList.toggle("few", few);
      toggle.textContent = few ? "Show all settings" : "Show only what differs";
    };
    toggle.hidden = false;
    show(true);
    toggle.addEventListener("click", () => show(!table.classList.contains("few")));
  }
  redraw();
  window.addEventListener("resize", redraw);
})();
