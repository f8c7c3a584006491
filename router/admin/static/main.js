// Puts the page together: the stream's events go to the panels, and what is not streamed is asked for now and then.

import { Access } from "./access.js";
import { AlarmPanel } from "./alarms.js";
import { AuditPanel } from "./audit.js";
import { Controls } from "./controls.js";
import { one } from "./dom.js";
import { ExperimentPanel } from "./experiment.js";
import { followAddress } from "./explain.js";
import { FleetPanel } from "./fleet.js";
import { writeTimesIn } from "./format.js";
import { Header } from "./header.js";
import { HeatMap } from "./heatmap.js";
import { MissPanel } from "./misspanel.js";
import { PrefixPanel } from "./prefixes.js";
import { ReplicaPanel } from "./replicas.js";
import { RequestPanel } from "./requests.js";
import { RouterPanel } from "./routers.js";
import { SavingsPanel } from "./savings.js";
import { followSections } from "./sections.js";
import { choose, chosen, LABELS, onChoice } from "./state.js";
import { Stream } from "./stream.js";
import { Trends } from "./trends.js";
import { Vitals } from "./vitals.js";

const SLOW_MS = 15_000; // prefixes and savings change slowly
const TREND_MS = 10_000; // as long as a step
writeTimesIn(chosen("tz") === "utc");
const trends = new Trends();
const controls = new Controls();
const alarms = new AlarmPanel();
const vitals = new Vitals(pick);
const fleet = new FleetPanel();
const misses = new MissPanel(pick);
const replicas = new ReplicaPanel();
const heat = new HeatMap(one("#heat-map"));
const prefixes = new PrefixPanel();
const requests = new RequestPanel();
const savings = new SavingsPanel();
const routers = new RouterPanel();
const experiment = new ExperimentPanel();
const audit = new AuditPanel();
let latest = null;
let open = false;

const stream = new Stream({
  async open() {
    access.granted();
    await Promise.all([
      load("trends", loadTrends),
      load("requests", () => requests.load()),
      load("audit log", () => audit.load()),
    ]);
    loadSlow();
    if (!open) followAddress();
    open = true;
  },
  event(name, data) {
    if (chosen("paused") && latest) return;
    measured(name, () => events[name]?.(JSON.parse(data)));
  },
  lost(problem, seconds) {
    if (problem.status === 401 || problem.status === 403) {
      access.refused(problem);
      return false;
    }
    header.lost(problem, seconds);
    return true;
  },
});
const header = new Header(() => stream.start());
const access = new Access(() => stream.start());

const events = {
  overview(overview) {
    const others = latest?.replicas.length !== overview.replicas.length;
    latest = overview;
    for (const panel of [header, alarms, fleet, misses, replicas, routers, experiment]) panel.overview(overview);
    if (others) drawHeat(trends.items());
  },
  requests: (list) => requests.add(list),
  audit: (entries) => audit.add(entries),
};

/** How long the page takes can be seen in the browser's own tools. */
function measured(name, run) {
  const begin = performance.now();
  run();
  performance.measure(`warmroute:${name}`, { start: begin, end: performance.now() });
  if (performance.getEntriesByType("measure").length > 500) performance.clearMeasures();
}

function drawTrends() {
  const items = trends.items();
  controls.show(trends.labels);
  for (const panel of [vitals, misses, replicas]) panel.show(items);
  drawHeat(items);
}

function drawHeat(items) {
  const all = latest?.replicas.map(({ replica }) => replica) ?? [];
  heat.show(items, chosen("replica") ? all.filter((id) => id === chosen("replica")) : all);
}

/** From a point of a chart to the requests that ended then. */
function pick({ time, width }) {
  choose({ from: time, to: time + width });
  one("#requests").scrollIntoView();
}

async function loadTrends() {
  await trends.load();
  measured("trends", drawTrends);
}

function loadSlow() {
  load("prefixes", () => prefixes.load());
  load("savings", () => savings.load());
}

/** Load one part of the page. What cannot be read is said at the top, and the rest of the page goes on. */
async function load(name, run) {
  try {
    await run();
    header.readable(name);
  } catch (error) {
    header.unreadable(name, error);
  }
}

const again = (run, milliseconds) =>
  setInterval(() => {
    if (open && !document.hidden && !chosen("paused")) run();
  }, milliseconds);
again(loadSlow, SLOW_MS);
again(() => load("trends", loadTrends), TREND_MS);
onChoice((changes) => {
  if ("tz" in changes) {
    writeTimesIn(chosen("tz") === "utc");
    location.reload(); // every time on the page is written anew
  } else if (["range", ...LABELS].some((name) => name in changes)) load("trends", loadTrends);
});
followSections();
stream.start();
