// What LayerMap looks like: colours, words, and painting. Runs in one scope with grid.js, after
// this file: Gradio hands in element, trigger, props and watch; grid.js builds the nodes.
// Every name, label and reason reaches the page as a text node or an attribute, never as markup.

let muted = new Set();
let cells = [];           // [row][layer]; row 0 holds the layer numbers
let shown = null;         // the unit in the detail panel
let stale = '';           // why the colours no longer hold, or nothing
let parts = {};           // the nodes that repainting touches

// ---- small tools -------------------------------------------------------------------------------

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

const rows = () => props.value.rows;
const depth = () => props.value.depth;
const key = (row, layer) => `${layer}.${rows()[row - 1].kind}`;
const isFixed = unit => Object.hasOwn(props.value.disabled || {}, unit);
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const scoreOf = unit => {
  const score = (props.value.scores || {})[unit];
  return typeof score === 'number' && isFinite(score) ? score : null;
};

function short(value) {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function scaled(value, units, base) {
  let step = 0;
  while (Math.abs(value) >= base && step < units.length - 1) { value /= base; step += 1; }
  const digits = step === 0 ? 0 : value >= 100 ? 1 : 2;
  return `${value.toFixed(digits)} ${units[step]}`.trim();
}

const count = value => scaled(value, ['', 'k', 'M', 'B'], 1000);
const bytes = value => scaled(value, ['B', 'kB', 'MB', 'GB', 'TB'], 1000);
const percent = (value, total) => total ? `${(100 * value / total).toFixed(1)} %` : '';

// ---- colours -----------------------------------------------------------------------------------

const stops = () => SCALES[props.value.measure && props.value.measure.signed
  ? 'signed' : 'one_sided'];

// The middle of a signed scale is 0, so both its sides run as far as the farther end.
function colour(score, light = false) {
  const measure = props.value.measure;
  let [low, high] = measure.range;
  if (measure.signed) {
    high = Math.max(Math.abs(low), Math.abs(high));
    low = -high;
  }
  const list = stops();
  const place = clamp((score - low) / ((high - low) || 1), 0, 1) * (list.length - 1);
  const left = Math.min(Math.floor(place), list.length - 2);
  const mix = list[left].map((part, i) => part + (place - left) * (list[left + 1][i] - part));
  if (stale) return faded(mix);
  const parts = mix.map(Math.round).join(',');
  return light ? `rgba(${parts},0.6)` : `rgb(${parts})`;
}

// Colours that belong to another mask: nearly grey, and the page shines through.
function faded(rgb) {
  const grey = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
  return `rgba(${rgb.map(part => Math.round(grey + 0.2 * (part - grey))).join(',')},0.55)`;
}

function staleReason() {
  const measure = props.value.measure;
  if (!measure) return '';
  if (measure.stale) return measure.stale;
  const own = measure.mask;
  const same = !own || (own.length === muted.size && own.every(unit => muted.has(unit)));
  return same ? '' : 'another mask: measure again to see what this one would cost.';
}

// ---- words -------------------------------------------------------------------------------------

// What stands before a score that is not what its number says: a bound, or an earlier one.
const markOf = unit => ((props.value.measure || {}).marks || {})[unit] || '';

function scoreText(unit) {
  const score = scoreOf(unit);
  const measure = props.value.measure;
  if (score === null || !measure) return '';
  return `${markOf(unit)}${short(score)}${measure.unit ? ' ' + measure.unit : ''}`;
}

function cellLabel(row, layer) {
  const unit = key(row, layer);
  const words = [`Layer ${layer}`, rows()[row - 1].label.toLowerCase() === 'ffn'
    ? 'FFN' : rows()[row - 1].label.toLowerCase(), muted.has(unit) ? 'off' : 'on'];
  if (isFixed(unit)) words.push(`cannot be switched: ${props.value.disabled[unit]}`);
  const score = scoreText(unit);
  if (score) words.push(`score ${score}${stale ? ', not of this mask' : ''}`);
  return words.join(', ');
}

function layerLabel(layer) {
  const units = rows().map((_, i) => key(i + 1, layer));
  const off = units.filter(unit => muted.has(unit)).length;
  const state = off === 0 ? 'all on' : off === units.length ? 'all off' : `${off} of ${units.length} off`;
  return `Layer ${layer}, ${state}: switch the whole layer`;
}

// ---- painting ----------------------------------------------------------------------------------

function paint() {
  stale = staleReason();
  for (let layer = 0; layer < depth(); layer += 1) {
    cells[0][layer].setAttribute('aria-label', layerLabel(layer));
    for (let row = 1; row <= rows().length; row += 1) paintCell(row, layer);
  }
  paintLegend();
  paintNote();
  paintSummary();
  paintDetail(parts.detail);
}

function paintCell(row, layer) {
  const unit = key(row, layer);
  const button = cells[row][layer];
  const score = props.value.measure ? scoreOf(unit) : null;
  button.classList.toggle('ig-off', muted.has(unit));
  button.classList.toggle('ig-fixed', isFixed(unit));
  if (score === null) button.style.removeProperty('--ig-colour');
  else button.style.setProperty('--ig-colour', colour(score, Boolean(markOf(unit))));
  button.setAttribute('aria-checked', String(!muted.has(unit)));
  button.setAttribute('aria-label', cellLabel(row, layer));
  if (isFixed(unit)) button.setAttribute('aria-disabled', 'true');
  else button.removeAttribute('aria-disabled');
}

function entry(swatch, text) {
  const item = make('span');
  item.append(make('i', `ig-swatch ${swatch}`), document.createTextNode(text));
  return item;
}

function paintLegend() {
  const measure = props.value.measure;
  const items = [];
  if (measure) {
    const title = make('span', '', `${measure.label}${measure.unit ? ` (${measure.unit})` : ''}`);
    title.style.fontWeight = '600';
    const scale = make('span');
    const ramp = make('i', 'ig-ramp');
    const [low, high] = measure.range;
    const steps = Array.from({length: 13}, (_, i) => colour(low + (high - low) * i / 12));
    ramp.style.background = `linear-gradient(90deg, ${steps.join(',')})`;
    scale.append(document.createTextNode(short(low)), ramp,
      document.createTextNode((measure.clipped ? '≥ ' : '') + short(high)));
    items.push(title, scale, make('span', '', measure.direction));
  }
  items.push(entry('ig-off', 'switched off'));
  const units = rows().flatMap((_, i) => Array.from({length: depth()}, (_, l) => key(i + 1, l)));
  if (measure && units.some(unit => scoreOf(unit) === null && !muted.has(unit) && !isFixed(unit))) {
    items.push(entry('', 'not measured'));
  }
  if (units.some(isFixed)) items.push(entry('ig-fixed', 'cannot be switched'));
  parts.legend.replaceChildren(...items);
}

function everyUnitIsOff() {
  return cells.slice(1).every((line, i) => line.every((_, layer) => {
    const unit = key(i + 1, layer);
    return muted.has(unit) || isFixed(unit);
  }));
}

function paintNote() {
  const empty = everyUnitIsOff();
  parts.note.classList.toggle('ig-warn', empty || Boolean(stale));
  if (empty) {
    parts.note.textContent = 'Every unit is off: only the embedding and the head are left.';
    return;
  }
  if (stale) {
    parts.note.textContent = `These colours belong to ${stale}`;
    return;
  }
  let best = null;
  if (props.value.measure) {
    for (let layer = 0; layer < depth(); layer += 1) {
      for (let row = 1; row <= rows().length; row += 1) {
        const unit = key(row, layer);
        const score = scoreOf(unit);
        if (score !== null && !muted.has(unit) && !isFixed(unit)
          && (best === null || score < best.score)) best = {row, layer, unit, score};
      }
    }
  }
  parts.note.textContent = best === null ? ''
    : `Lowest of all that is on: layer ${best.layer}, ${word(best.row)}, ${scoreText(best.unit)}`;
}

function word(row) {
  const label = rows()[row - 1].label;
  return label === label.toUpperCase() ? label : label.toLowerCase();
}

function paintSummary() {
  const value = props.value;
  const all = rows().length * depth();
  const list = [['Units on', String(all - muted.size), `of ${all}`]];
  if (value.totals && value.costs) {
    let parameters = value.totals.parameters;
    let kv = value.totals.kv;
    for (const unit of muted) {
      const [own, cache] = value.costs[unit] || [0, 0];
      parameters -= own;
      kv -= cache;
    }
    list.push(['Parameters left', count(parameters), percent(parameters, value.totals.parameters)]);
    list.push(['KV cache per token', bytes(kv), percent(kv, value.totals.kv)]);
    if (value.totals.bytes_per_parameter) {
      list.push(['Weights in memory', bytes(parameters * value.totals.bytes_per_parameter), '']);
    }
  }
  parts.summary.replaceChildren(...list.map(([label, text, more]) => {
    const item = make('div');
    const number = make('dd', '', text);
    if (more) number.append(' ', make('small', '', more));
    item.append(make('dt', '', label), number);
    return item;
  }));
}

function facts(unit, layer) {
  const value = props.value;
  const list = [];
  if (value.measure) {
    const text = scoreText(unit) || (muted.has(unit) ? 'none while it is off' : 'not measured');
    list.push([value.measure.label, text + (scoreText(unit) && stale ? ' (not of this mask)' : '')]);
  }
  if (value.types && value.types[layer]) list.push(['Layer type', value.types[layer]]);
  const cost = (value.costs || {})[unit];
  if (cost) {
    const total = value.totals ? `, ${percent(cost[0], value.totals.parameters)}` : '';
    list.push(['Parameters', count(cost[0]) + total]);
    list.push(['KV cache per token', bytes(cost[1])]);
  }
  return list.concat((value.details || {})[unit] || []);
}

function paintDetail(panel, spot = shown || {row: 1, layer: 0}) {
  const unit = key(spot.row, spot.layer);
  const head = make('p', 'ig-head', `Layer ${spot.layer}, ${word(spot.row)}`);
  head.append(make('span', '', muted.has(unit) ? ' is off' : ' is on'));
  const list = make('dl', 'ig-facts');
  for (const [label, text] of facts(unit, spot.layer)) {
    const item = make('div');
    item.append(make('dt', '', label), make('dd', '', text));
    list.append(item);
  }
  panel.replaceChildren(head);
  if (isFixed(unit)) {
    panel.append(make('p', 'ig-reason', `Cannot be switched: ${props.value.disabled[unit]}`));
  }
  if (list.children.length) panel.append(list);
}

// The panel is as high as its fullest unit needs, so that moving over the map moves nothing else.
function reserve() {
  const panel = parts.detail;
  panel.style.minHeight = '0';
  const spots = new Map();
  for (let row = 1; row <= rows().length; row += 1) {
    for (let layer = 0; layer < depth(); layer += 1) {
      const unit = key(row, layer);
      const list = facts(unit, layer);
      const longest = Math.max(0, ...list.map(([label, text]) => Math.max(label.length, text.length)));
      const reason = isFixed(unit) ? props.value.disabled[unit].length >> 5 : -1;
      spots.set(`${list.length} ${longest >> 3} ${reason}`, {row, layer});
    }
  }
  let highest = 0;
  for (const spot of [...spots.values()].slice(0, 24)) {
    paintDetail(panel, spot);
    highest = Math.max(highest, panel.offsetHeight);
  }
  panel.style.minHeight = `${highest}px`;
  paintDetail(panel);
}
