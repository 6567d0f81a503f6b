// Everything that the page says in words and numbers.

import { bitsOf, bytes, colorOf, digits, layers, seconds } from "./format.js";

const $ = (id) => document.getElementById(id);
let before = null; // the state a second ago: how busy a stage is, is what changed

export function drawTables(state) {
  $("rate").textContent = digits(state.tokens_per_second);
  $("first").textContent = seconds(state.first_token_seconds);
  $("next").textContent = seconds(state.token_seconds);
  $("predicted").textContent = seconds(state.predicted_seconds);
  $("running").textContent = state.running;
  $("waiting").textContent = state.waiting;
  $("devices").replaceChildren(...state.devices.map((device) => deviceRow(device, state)));
  $("finished").replaceChildren(...[...state.requests].reverse().map(requestRow));
  drawRibbon(state);
  fill("reasons", state.explanation.map((text) => make("li", "", text)));
  fill("events", [...state.events].reverse().map(eventLine));
  before = state;
}

function deviceRow(device, state) {
  const row = make("tr", device.lost ? "lost" : "");
  row.style.setProperty("--device", colorOf(device.name));
  const name = make("td");
  name.append(make("span", "swatch"), device.name);
  const held = device.lost ? "lost" : layers(device) || "none";
  const memory = make("td");
  memory.append(meter(device.used_bytes / device.memory_bytes), `${bytes(device.used_bytes)} of ${bytes(device.memory_bytes)}`);
  const busy = make("td");
  const share = busyShare(device, state);
  if (share === null) busy.append("–");
  else busy.append(meter(share), `${Math.round(100 * share)} %`);
  row.append(name, make("td", "", held), make("td", "", bitsOf(state.stages, device.name)), memory, busy);
  return row;
}

/** Of the last second. */
function busyShare(device, state) {
  if (!before || !device.layers.length) return null;
  const total = (from) => from.stages
    .filter((stage) => stage.device === device.name)
    .reduce((sum, stage) => sum + stage.busy_seconds, 0);
  const passed = state.uptime_seconds - before.uptime_seconds;
  const busy = total(state) - total(before);
  return passed > 0 && busy >= 0 ? Math.min(busy / passed, 1) : null;
}

function requestRow(request) {
  const row = make("tr", request.finish === "error" ? "lost" : "");
  const cells = [
    request.request, request.prompt_tokens, request.new_tokens,
    seconds(request.first_seconds), seconds(request.token_seconds), request.finish,
  ];
  row.append(...cells.map((text) => make("td", "", text)));
  return row;
}

/** A bar for each layer, as high as it has bits, in the color of its device. */
function drawRibbon(state) {
  const bits = state.stages.flatMap((stage) => stage.bits);
  const most = Math.max(...bits, 1);
  const bars = state.stages.flatMap((stage) => stage.bits.map((count, i) => {
    const bar = make("i");
    bar.style.setProperty("--device", colorOf(stage.device));
    bar.style.height = `${(100 * count) / most}%`;
    bar.title = `layer ${stage.start + i} on ${stage.device}: ${count} bits per weight`;
    return bar;
  }));
  $("ribbon").replaceChildren(...bars);
  const said = state.stages.map((x) => `${x.device} ${x.start} to ${x.end - 1}`).join(", ");
  $("ribbon").setAttribute("aria-label", said ? `Layers by device: ${said}` : "No plan");
}

function eventLine(event) {
  const line = make("li");
  line.append(make("time", "", clock(event.seconds)), event.text);
  return line;
}

function clock(total) {
  const parts = [Math.floor(total / 3600), Math.floor(total / 60) % 60, Math.floor(total) % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

function meter(share) {
  const outer = make("span", "meter");
  const inner = make("i");
  inner.style.width = `${100 * Math.min(share, 1)}%`;
  outer.append(inner);
  return outer;
}

/** Only where it changed: what is selected or read aloud stays. */
function fill(id, children) {
  const text = children.map((child) => child.textContent).join("\n");
  if ($(id).dataset.text === text) return;
  $(id).dataset.text = text;
  $(id).replaceChildren(...children);
}

function make(name, kind = "", text = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== "") made.textContent = text;
  return made;
}
