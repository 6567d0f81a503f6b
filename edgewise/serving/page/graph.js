// The cluster as a picture: devices, the links between them, and the way that a token takes.

import { bitsOf, bytes, colorOf, layers, rate, seconds } from "./format.js";

const WIDE = 150, HIGH = 78, NARROW = 520; // pixels
const SVG = "http://www.w3.org/2000/svg";

export function drawGraph(svg, state) {
  const width = svg.clientWidth || 600;
  const places = placesOf(state, width);
  const height = Math.max(...[...places.values()].map(([, y]) => y)) + HIGH / 2 + 6;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  const parts = [arrowHead()];
  for (const pair of pairsOf(state.links)) parts.push(...drawLink(pair, places, hopsOf(state)));
  for (const device of state.devices) parts.push(drawDevice(device, places.get(device.name), state));
  svg.replaceChildren(...parts);
}

/** Where it is narrow, one below the other; else around an ellipse, from the left. In the plan's
    order, so that a token's way does not cross itself. */
function placesOf(state, width) {
  const planned = [...new Set(state.stages.map((stage) => stage.device))];
  const rank = (device) => (planned.indexOf(device.name) + 1) || planned.length + 1;
  const devices = [...state.devices].sort((a, b) => rank(a) - rank(b));
  const [left, right] = [WIDE / 2 + 6, width - WIDE / 2 - 6];
  const down = 40 + 22 * devices.length;
  const spots = devices.map((device, i) => {
    if (devices.length === 1) return [0.5, HIGH / 2];
    if (width < NARROW) return [i % 2, HIGH / 2 + i * (HIGH + 44)];
    if (devices.length === 2) return [i, HIGH / 2];
    const angle = Math.PI + (2 * Math.PI * i) / devices.length;
    return [Math.cos(angle), HIGH / 2 + down * (1 + Math.sin(angle))];
  });
  const across = spots.map(([x]) => x);
  const [least, most] = [Math.min(...across), Math.max(...across)];
  const scale = most > least ? (right - left) / (most - least) : 0;
  const top = Math.min(...spots.map(([, y]) => y)) - HIGH / 2 - 6;
  return new Map(devices.map((device, i) => {
    const [x, y] = spots[i];
    return [device.name, [most > least ? left + scale * (x - least) : width / 2, y - top]];
  }));
}

/** Both directions of a link are one line, with the slower one's figures. */
function pairsOf(links) {
  const pairs = new Map();
  for (const link of links) {
    const name = [link.source, link.target].sort().join("\n");
    const other = pairs.get(name);
    const slower = !other || (link.bytes_per_second ?? Infinity) < (other.bytes_per_second ?? Infinity);
    if (slower) pairs.set(name, link);
  }
  return pairs.values();
}

function hopsOf(state) {
  const hops = new Set();
  state.stages.slice(1).forEach((stage, i) => hops.add(`${state.stages[i].device}\n${stage.device}`));
  return hops;
}

function drawLink(link, places, hops) {
  const ends = [link.source, link.target];
  const turned = hops.has(`${link.target}\n${link.source}`);
  if (turned) ends.reverse();
  const hop = hops.has(ends.join("\n"));
  const [from, to] = ends.map((name) => places.get(name));
  if (!from || !to) return [];
  const [x1, y1] = edge(from, to);
  const [x2, y2] = edge(to, from);
  const line = element("line", { x1, y1, x2, y2, class: hop ? "hop" : "" });
  if (hop) line.setAttribute("marker-end", "url(#arrow)");
  const text = `${rate(link.bytes_per_second)}, ${seconds(link.latency_seconds)}`;
  const at = { x: (x1 + x2) / 2, y: (y1 + y2) / 2 + 4, class: "rate", "text-anchor": "middle" };
  return [line, element("text", at, hop || hops.size === 0 ? text : "")];
}

/** Where the line from a card's middle to another point leaves the card. */
function edge([x, y], [toX, toY]) {
  const [dx, dy] = [toX - x, toY - y];
  const scale = Math.min((WIDE / 2 + 4) / Math.abs(dx || 1e-9), (HIGH / 2 + 4) / Math.abs(dy || 1e-9), 1);
  return [x + dx * scale, y + dy * scale];
}

function drawDevice(device, [x, y], state) {
  const kind = device.lost ? "lost" : device.layers.length ? "used" : "";
  const group = element("g", { class: kind, transform: `translate(${x - WIDE / 2} ${y - HIGH / 2})` });
  group.style.setProperty("--device", colorOf(device.name));
  const share = Math.min(device.used_bytes / device.memory_bytes, 1);
  const held = device.layers.length
    ? `layers ${layers(device)}, ${bitsOf(state.stages, device.name)} bits`
    : device.lost ? "lost" : "holds nothing";
  group.append(
    element("rect", { class: "card", width: WIDE, height: HIGH, rx: 8 }),
    element("text", { class: "name", x: 10, y: 22 }, shorten(device.name, 18)),
    element("text", { class: "faint", x: 10, y: 40 }, shorten(held, 23)),
    element("rect", { class: "memory", x: 10, y: 48, width: WIDE - 20, height: 6, rx: 3 }),
    element("rect", { class: "held", x: 10, y: 48, width: (WIDE - 20) * share, height: 6, rx: 3 }),
    element("text", { class: "faint", x: 10, y: 69 }, `${bytes(device.used_bytes)} of ${bytes(device.memory_bytes)}`),
    element("title", {}, `${device.name}: ${held}`),
  );
  return group;
}

function arrowHead() {
  const marker = element("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 5, markerHeight: 5, orient: "auto" });
  marker.append(element("path", { d: "M0 0 8 4 0 8z" }));
  return marker;
}

function shorten(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function element(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}
