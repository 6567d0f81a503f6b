// Numbers for people, colors for devices, elements from text.

const COLORS = ["#3b82f6", "#e8833a", "#1fa97a", "#a366e0", "#d6455d", "#8a7a2e", "#2aa4b8", "#7c8798"];
const given = new Map();

export function colorOf(device) {
  if (!given.has(device)) given.set(device, COLORS[given.size % COLORS.length]);
  return given.get(device);
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${digits(1000 * value)} ms`;
  return `${digits(value)} s`;
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${digits(value)} ${units[unit]}`;
}

export function rate(bytesPerSecond) {
  if (bytesPerSecond === null) return "no limit";
  const mbps = (8 * bytesPerSecond) / 1e6;
  return mbps >= 1000 ? `${digits(mbps / 1000)} Gbps` : `${digits(mbps)} Mbps`;
}

export function layers(device) {
  return device.layers.map(([start, end]) => (end - start > 1 ? `${start}–${end - 1}` : `${start}`)).join(", ");
}

export function digits(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export function bitsOf(stages, device) {
  const bits = stages.filter((stage) => stage.device === device).flatMap((stage) => stage.bits);
  const [least, most] = [Math.min(...bits), Math.max(...bits)];
  if (!bits.length) return "–";
  return most - least < 0.05 ? least.toFixed(1) : `${least.toFixed(1)}–${most.toFixed(1)}`;
}
