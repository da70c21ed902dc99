// The browser's side of Plot. Gradio hands in: element, trigger, props, watch.
// Names of models and files only ever reach the page as text nodes and attributes, or escaped.

const root = element.querySelector('.ip-root');
const empty = make('p', 'ip-empty');
const box = make('div', 'ip-figure');
const tools = make('div', 'ip-tools');
const whole = make('button', '');
const PAPER = {ink: '#1f2937', soft: '#374151', surface: '#ffffff', line: '#d1d5db'};
const CONFIG = {
  displayModeBar: false,  // a picture holds no buttons: they stand under it
  doubleClick: 'reset',
};
const TOUCH = window.matchMedia('(pointer: coarse)').matches;

const STACKED = 720;    // px: below this, panels that can be stacked are

let figure = null;      // the parsed figure, as Python made it
let plotly = null;
let drawing = false;    // a draw is under way
let again = false;      // and another one has been asked for since
let drawnWidth = 0;     // for which the last draw was made; the observer asks for others

function make(tag, className) {
  const node = document.createElement(tag);
  node.className = className;
  return node;
}

// One download of the bundle for all plots of a page; a failed one may be tried again.
function library() {
  const config = window.gradio_config || {};
  const base = (config.root || '') + (config.api_prefix || '/gradio_api');
  const shared = window.inspectorPlotly || (window.inspectorPlotly = {});
  shared.promise = shared.promise || new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = base + '/file=' + BUNDLE;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => { shared.promise = null; script.remove(); reject(new Error('bundle')); };
    document.head.append(script);
  });
  return shared.promise;
}

function theme() {
  const style = getComputedStyle(root);
  const value = name => style.getPropertyValue(name).trim();
  return {
    ink: style.color,
    soft: fade(style.color, 0.8),
    surface: value('--background-fill-primary') || PAPER.surface,
    line: value('--border-color-primary') || PAPER.line,
  };
}

function fade(colour, alpha) {
  const parts = colour.match(/[0-9.]+/g);
  return parts && parts.length >= 3 ? `rgba(${parts.slice(0, 3).join(',')},${alpha})` : colour;
}

function wrap(text, width) {
  const lines = [];
  // A name too long for a line of its own is cut.
  const words = String(text).split(' ').flatMap(
    word => word.match(new RegExp(`.{1,${width}}`, 'gu')) || []);
  for (const word of words) {
    const last = lines.length - 1;
    if (last >= 0 && lines[last].length + 1 + word.length <= width) lines[last] += ' ' + word;
    else lines.push(word);
  }
  return lines;
}

const safe = text => text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');

// The layout for this width and these colours; the figure itself stays as it came.
function dress(width, look) {
  const layout = structuredClone(figure.layout);
  const meta = layout.meta || {};
  const narrow = width < 560;
  const margin = layout.margin = {l: 58, r: 16, t: 60, b: 52, ...layout.margin};
  if (narrow) { margin.l = Math.min(margin.l, 92) - 8; margin.r = 10; }
  const room = width - margin.l - margin.r;
  if (meta.title) {
    const head = wrap(meta.title, Math.max(16, Math.floor((width - 24) / 8.4)));
    const lines = (meta.lines || []).flatMap(
      line => wrap(line, Math.max(20, Math.floor((width - 24) / 6.2))));
    const rows = layout.showlegend ? legendRows(room) : 0;
    // Plotly spaces all lines of a title alike, the smaller ones, too.
    const top = 21 + 19.5 * (head.length + lines.length) + (rows ? 6 + 26 * rows : 8);
    layout.height += top - margin.t;
    margin.t = top;
    layout.title = {
      ...layout.title, subtitle: undefined, xref: 'container', x: 0,
      text: `<b>${head.map(safe).join('<br>')}</b><br>`
        + `<span style="font-size:12px;color:${look.soft}">${lines.map(safe).join('<br>')}</span>`,
      pad: {t: 20, l: 4},
      font: {...(layout.title || {}).font, color: look.ink},
    };
  }
  if (meta.stack && width < STACKED) stack(layout);
  layout.width = width;
  layout.autosize = false;
  for (const note of layout.annotations || []) {
    if (note.name === 'bar' && narrow) note.xshift = 6 - margin.l;
  }
  if (narrow) {
    const across = axes(layout).filter(name => name[0] === 'x');
    const more = 16 * Math.max(...across.map(name => squeeze(layout[name], margin, room)), 0);
    margin.b += more;
    layout.height += more;
  }
  if (TOUCH) layout.dragmode = false;  // a finger on the figure scrolls the page
  layout.font = {...layout.font, color: look.soft, family: getComputedStyle(root).fontFamily};
  layout.hoverlabel = {
    ...layout.hoverlabel, bgcolor: look.surface, bordercolor: look.line,
    font: {...(layout.hoverlabel || {}).font, color: look.ink, family: layout.font.family},
  };
  for (const name of axes(layout)) layout[name].color = look.soft;
  return layout;
}

// On a narrow figure, names under the axis that would overlap are thinned out, and a title that
// would be cut off at the edge takes more lines; how many more.
function squeeze(axis, margin, room) {
  const [from, to] = axis.domain || [0, 1];
  if (Array.isArray(axis.ticktext) && Array.isArray(axis.tickvals)) {
    const each = 10 + 6 * Math.max(...axis.ticktext.map(text => text.length));
    const every = Math.ceil(axis.ticktext.length * each / (room * (to - from)));
    const kept = list => list.filter((_, place) => place % every === 0);
    Object.assign(axis, {ticktext: kept(axis.ticktext), tickvals: kept(axis.tickvals)});
  }
  if (!axis.title?.text) return 0;
  const middle = room * (from + to) / 2;
  const reach = Math.min(margin.l + middle, margin.r + room - middle);
  const lines = wrap(axis.title.text, Math.floor(2 * reach / 6.4));
  axis.title = {...axis.title, text: lines.join('<br>')};
  return lines.length - 1;
}

// Plotly gives all entries of a legend the width of the longest.
function legendRows(room) {
  const names = figure.data.filter(trace => trace.name && trace.showlegend !== false)
    .map(trace => trace.name.length);
  return Math.ceil(names.length / Math.max(1, Math.floor(room / (48 + 6.8 * Math.max(...names)))));
}

// Two panels that stand side by side go under one another.
function stack(layout) {
  const height = layout.height - layout.margin.t - layout.margin.b;
  const gap = 50;
  layout.height += height + gap;
  const part = height / (2 * height + gap);
  Object.assign(layout.xaxis, {domain: [0, 1]});
  Object.assign(layout.xaxis2, {domain: [0, 1]});
  Object.assign(layout.yaxis, {domain: [1 - part, 1]});
  Object.assign(layout.yaxis2, {domain: [0, part], showticklabels: true, title: layout.yaxis.title});
}

// A narrow figure gives its colour bar more of the width.
function traces(width) {
  if (width >= 560) return figure.data;
  return figure.data.map(trace => !trace.colorbar ? trace
    : {...trace, colorbar: {...trace.colorbar, len: 0.84}});
}

async function draw() {
  if (drawing) { again = true; return; }
  drawing = true;
  try {
    do {
      again = false;
      await drawOnce();
    } while (again);
  } catch (error) {
    console.error(error);
    say(error.message === 'bundle' ? 'The figure library did not load: reload the page.'
      : 'This figure could not be drawn: ' + error.message);
  } finally {
    drawing = false;
  }
}

async function drawOnce() {
  const width = drawnWidth = Math.floor(box.clientWidth);
  if (!figure || width === 0) return;  // in a hidden tab: the observer calls again once it is shown
  plotly = await library();
  if (!figure) return;
  root.classList.toggle('ip-wide', width >= 560);
  const layout = dress(width, theme());
  box.style.minHeight = `${layout.height}px`;
  await plotly.react(box, traces(width), layout, CONFIG);
  if (!box.dataset.wired) {
    box.dataset.wired = '1';
    box.on('plotly_click', clicked);
    box.on('plotly_relayout', () => { whole.hidden = !zoomed(); });
  }
  box.dataset.draws = String(Number(box.dataset.draws || 0) + 1);
}

const axes = layout => Object.keys(layout).filter(name => /^[xy]axis[0-9]*$/.test(name));

function zoomed() {
  return axes(box._fullLayout).some(name => {
    const [own, now] = [figure.layout[name] || {}, box._fullLayout[name]];
    return own.range ? own.range.some((end, i) => Math.abs(end - now.range[i]) > 1e-9)
      : !now.autorange;
  });
}

function showWhole() {
  const change = {};
  for (const name of axes(box._fullLayout)) {
    const {range, autorange} = figure.layout[name] || {};
    if (range) change[`${name}.range`] = [...range];
    else change[`${name}.autorange`] = autorange || true;
  }
  plotly.relayout(box, change);
}

function clicked(event) {
  const point = event.points && event.points[0];
  if (!point || point.customdata === undefined || point.customdata === null) return;
  trigger('point', {customdata: point.customdata, x: point.x, y: point.y});
}

function say(sentence) {
  empty.textContent = sentence;
  empty.hidden = false;
  box.hidden = tools.hidden = true;
}

function show() {
  const value = props.value;
  figure = value ? (typeof value === 'string' ? JSON.parse(value) : value) : null;
  if (!figure) { say(root.dataset.empty); return; }
  empty.hidden = true;
  box.hidden = tools.hidden = false;
  // Before it is drawn, which may have to wait for the library.
  box.setAttribute('aria-label', [figure.layout.meta?.title, ...(figure.layout.meta?.lines || [])]
    .filter(Boolean).join('. ') || 'Figure');
  box.style.minHeight = (figure.layout.height || 360) + 'px';  // keeps the page from jumping
  for (const button of tools.querySelectorAll('[data-saves]')) {
    const title = figure.layout.meta?.title || 'figure';
    button.setAttribute('aria-label', `Save as ${button.textContent}: ${title}`);
  }
  draw();
}

function stem() {
  return String(figure.layout.meta?.name || 'figure').replace(/[^A-Za-z0-9._-]+/g, '_');
}

function save(href, extension) {
  const link = document.createElement('a');
  link.href = href;
  link.download = `${stem()}.${extension}`;
  link.click();
}

// Pictures are for paper: light colours on white, whatever the page looks like.
async function saveImage(format) {
  plotly = plotly || await library();
  const width = Math.max(900, box.clientWidth);
  const layout = {...dress(width, PAPER), paper_bgcolor: '#ffffff'};
  const size = {width, height: layout.height};
  const picture = {data: structuredClone(figure.data), layout, config: CONFIG};
  save(await plotly.toImage(picture, {format, ...size, scale: format === 'png' ? 2 : 1}), format);
}

function saveCsv() {
  const blob = new Blob([figure.layout.meta?.csv || ''], {type: 'text/csv;charset=utf-8'});
  const url = URL.createObjectURL(blob);
  save(url, 'csv');
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

whole.type = 'button';
whole.textContent = 'Reset zoom';
whole.hidden = true;
whole.addEventListener('click', showWhole);
tools.append(whole);
for (const [name, action] of [
  ['PNG', () => saveImage('png')], ['SVG', () => saveImage('svg')], ['CSV', saveCsv],
]) {
  const button = make('button', '');
  button.type = 'button';
  button.textContent = name;
  button.dataset.saves = name;
  button.addEventListener('click', action);
  tools.append(button);
}
box.setAttribute('role', 'img');
root.replaceChildren(empty, box, tools);
watch('value', show);
new ResizeObserver(() => {
  if (figure && box.clientWidth && Math.floor(box.clientWidth) !== drawnWidth) draw();
}).observe(box);
const repaint = new MutationObserver(draw);
for (const node of [document.documentElement, document.body]) {
  repaint.observe(node, {attributes: true, attributeFilter: ['class']});
}
show();
