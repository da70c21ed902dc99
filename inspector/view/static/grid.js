// What LayerMap does: it builds the nodes, switches units, and listens to pointer, keys and Python.
// Runs after grid_paint.js and in one scope with it, where Gradio hands in element, trigger, props
// and watch.

const root = element.querySelector('.ig-root');
const SMALLEST = 24;      // px: the least width of a cell before the map wraps into bands
const GAP = 2;
const HINT = 'Click a unit to switch it off or on, Shift-click for a range, a layer number for '
  + 'the whole layer. Keys: arrows move, Space switches, Ctrl+Z undoes.';

let columns = 0;          // layers in a band
let at = {row: 1, layer: 0};
let anchor = null;        // where a range starts
let clicks = 0;           // switches made here; Python sends back how many it has heard of
let lastClick = 0;        // when, in milliseconds
const PATIENCE = 5000;    // as long as that, what is older than the screen is not believed
let newest = null;        // the value on the screen
let newestAt = 0;         // since when, in milliseconds

// ---- building ----------------------------------------------------------------------------------

function fitting() {
  const width = root.clientWidth - 8;
  if (width <= 0) return depth();  // in a hidden tab: laid out anew once it is shown
  const narrow = width < 560;
  root.classList.toggle('ig-narrow', narrow);
  const room = Math.floor((width - (narrow ? 66 : 70)) / (SMALLEST + GAP));
  const most = Math.max(1, Math.min(room, depth()));
  const bands = Math.ceil(depth() / most);
  return Math.ceil(depth() / bands);
}

function build() {
  const hadFocus = root.contains(document.activeElement);
  muted = new Set(props.value ? props.value.muted : []);
  cells = [];
  parts = {};
  if (!props.value) {
    root.replaceChildren(make('p', 'ig-empty', root.dataset.empty));
    return;
  }
  columns = fitting();
  root.style.setProperty('--ig-columns', columns);
  at = {row: clamp(at.row, 0, rows().length), layer: clamp(at.layer, 0, depth() - 1)};
  const map = make('div', 'ig-map');
  map.setAttribute('role', 'grid');
  map.setAttribute('aria-label', 'Layer map');
  cells = Array.from({length: rows().length + 1}, () => []);
  for (let first = 0; first < depth(); first += columns) map.append(band(first));
  parts.map = map;
  parts.legend = make('div', 'ig-legend');
  parts.note = make('p', 'ig-note');
  parts.summary = make('dl', 'ig-summary');
  parts.detail = make('div', 'ig-detail');
  parts.detail.setAttribute('role', 'group');
  parts.detail.setAttribute('aria-label', 'Unit under the cursor');
  parts.note.setAttribute('role', 'status');
  root.replaceChildren(map, parts.legend, parts.note, parts.summary, parts.detail,
    make('p', 'ig-hint', HINT));
  cells[at.row][at.layer].tabIndex = 0;
  paint();
  reserve();
  if (hadFocus) cells[at.row][at.layer].focus({preventScroll: true});
}

function band(first) {
  const last = Math.min(first + columns, depth());
  const box = make('div', 'ig-band');
  box.setAttribute('role', 'rowgroup');
  for (let row = 0; row <= rows().length; row += 1) {
    const line = make('div', 'ig-row');
    line.setAttribute('role', 'row');
    const label = make('div', row ? 'ig-label' : 'ig-label ig-corner',
      row ? rows()[row - 1].label : 'Layer');
    label.setAttribute('role', row ? 'rowheader' : 'columnheader');
    line.append(label);
    for (let layer = first; layer < last; layer += 1) line.append(cell(row, layer));
    box.append(line);
  }
  return box;
}

function cell(row, layer) {
  const holder = make('div');
  holder.setAttribute('role', row ? 'gridcell' : 'columnheader');
  const button = make('button', row ? 'ig-cell' : 'ig-number', row ? undefined : String(layer));
  button.type = 'button';
  button.tabIndex = -1;
  button.dataset.row = row;
  button.dataset.layer = layer;
  if (row) button.setAttribute('role', 'switch');
  holder.append(button);
  cells[row][layer] = button;
  return holder;
}

// ---- switching ---------------------------------------------------------------------------------

function switchUnits(units, off) {
  const changed = units.filter(unit => !isFixed(unit) && muted.has(unit) !== off);
  if (!changed.length) return;
  for (const unit of changed) {
    if (off) muted.add(unit);
    else muted.delete(unit);
  }
  const order = rows().map(row => row.kind);
  const mask = [...muted].sort((a, b) => {
    const [left, right] = [a.split('.'), b.split('.')];
    return left[0] - right[0] || order.indexOf(left[1]) - order.indexOf(right[1]);
  });
  clicks += 1;
  lastClick = Date.now();
  props.value = {...props.value, muted: mask, clicks};
  newest = props.value;
  paint();
  trigger('toggle', {units: changed, muted: off, mask});
}

function unitsOf(row, from, to) {
  const list = [];
  for (let layer = Math.min(from, to); layer <= Math.max(from, to); layer += 1) {
    if (row) list.push(key(row, layer));
    else rows().forEach((_, i) => list.push(key(i + 1, layer)));
  }
  return list;
}

// A plain use switches one unit or layer; with Shift, all from the last one used take its state.
function activate(row, layer, range) {
  const reach = range && anchor && anchor.row === row;
  const units = unitsOf(row, reach ? anchor.layer : layer, layer);
  const free = unitsOf(row, layer, layer).filter(unit => !isFixed(unit));
  const off = reach ? anchor.off : free.some(unit => !muted.has(unit));
  if (free.length || reach) anchor = {row, layer, off};
  switchUnits(units, off);
}

// ---- pointer and keys --------------------------------------------------------------------------

function spotOf(target) {
  const button = target instanceof Element ? target.closest('button[data-row]') : null;
  return button && root.contains(button)
    ? {row: Number(button.dataset.row), layer: Number(button.dataset.layer)} : null;
}

function settle(spot) {
  cells[at.row][at.layer].tabIndex = -1;
  at = spot;
  cells[at.row][at.layer].tabIndex = 0;
}

function show(spot) {
  if (spot.row === 0 || (shown && shown.row === spot.row && shown.layer === spot.layer)) return;
  shown = spot;
  paintDetail(parts.detail);
}

function moved(event) {
  const {row, layer} = at;
  const last = depth() - 1;
  const bottom = rows().length;
  const jump = event.ctrlKey || event.metaKey;
  switch (event.key) {
    case 'ArrowRight': return {row, layer: layer + 1};
    case 'ArrowLeft': return {row, layer: layer - 1};
    case 'ArrowUp':
      if (row > 0) return {row: row - 1, layer};
      return layer >= columns ? {row: bottom, layer: layer - columns} : at;
    case 'ArrowDown':
      if (row < bottom) return {row: row + 1, layer};
      return Math.floor(layer / columns) < Math.floor(last / columns)
        ? {row: 0, layer: layer + columns} : at;
    case 'Home': return {row: jump ? 1 : row, layer: 0};
    case 'End': return {row: jump ? bottom : row, layer: last};
    case 'PageUp': return {row, layer: layer - 10};
    case 'PageDown': return {row, layer: layer + 10};
    default: return null;
  }
}

root.addEventListener('click', event => {
  const spot = spotOf(event.target);
  if (!spot) return;
  settle(spot);
  show(spot);
  activate(spot.row, spot.layer, event.shiftKey);
});

root.addEventListener('keydown', event => {
  const spot = spotOf(event.target);
  if (!spot) return;
  if ((event.ctrlKey || event.metaKey) && /^[zy]$/i.test(event.key)) {
    event.preventDefault();
    if (event.shiftKey || event.key.toLowerCase() === 'y') trigger('redo', {});
    else trigger('undo', {});
    return;
  }
  if (event.key === ' ' || event.key === 'Enter') {
    event.preventDefault();
    if (!event.repeat) activate(spot.row, spot.layer, event.shiftKey);
    return;
  }
  const target = moved(event);
  if (!target) return;
  event.preventDefault();
  settle({row: target.row, layer: clamp(target.layer, 0, depth() - 1)});
  cells[at.row][at.layer].focus();
});

root.addEventListener('keyup', event => {
  if (event.key === ' ' && spotOf(event.target)) event.preventDefault();  // no second click
});

for (const name of ['focusin', 'pointerover']) {
  root.addEventListener(name, event => {
    const spot = spotOf(event.target);
    if (!spot) return;
    if (name === 'focusin') settle(spot);
    show(spot);
  });
}

// ---- from Python -------------------------------------------------------------------------------

let built = '';

function update() {
  const value = props.value;
  if (value && newest && value.drawing < newest.drawing && Date.now() - newestAt < PATIENCE) {
    props.value = newest;  // drawn before what is shown, and overtaken on the way
    return;
  }
  [newest, newestAt] = [value, Date.now()];
  const shape = value ? JSON.stringify([value.depth, value.rows]) : '';
  if (!value || shape !== built || !cells.length) {
    shown = anchor = null;
    built = shape;
    build();
    return;
  }
  // Drawn before Python heard of the last click: it would undo that click on the screen.
  const late = value.clicks < clicks && Date.now() - lastClick < PATIENCE;
  if (!late) muted = new Set(value.muted);
  paint();
  reserve();
}

let width = 0;
new ResizeObserver(() => {
  if (!props.value || root.clientWidth === width || !root.clientWidth) return;
  width = root.clientWidth;
  if (fitting() !== columns || !cells.length) build();
  else reserve();
}).observe(root);

watch('value', update);
update();
