// Puts the page together: the stream's events go to the panels, and what is not streamed is asked for now and then.

import { Access } from "./access.js";
import { get } from "./api.js";
import { AuditPanel } from "./audit.js";
import { one } from "./dom.js";
import { ExperimentPanel } from "./experiment.js";
import { followAddress } from "./explain.js";
import { FleetPanel } from "./fleet.js";
import { Header } from "./header.js";
import { HeatMap } from "./heatmap.js";
import { History } from "./history.js";
import { MissPanel } from "./misspanel.js";
import { PrefixPanel } from "./prefixes.js";
import { Range } from "./ranges.js";
import { ReplicaPanel } from "./replicas.js";
import { RequestPanel } from "./requests.js";
import { RouterPanel } from "./routers.js";
import { SavingsPanel } from "./savings.js";
import { followSections } from "./sections.js";
import { Stream } from "./stream.js";

const SLOW_MS = 15_000; // prefixes and savings change slowly
const history = new History();
const range = new Range(() => drawHistory());
const fleet = new FleetPanel(range);
const misses = new MissPanel();
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
      load("history", loadHistory),
      load("requests", () => requests.load()),
      load("audit log", () => audit.load()),
    ]);
    loadSlow();
    if (!open) followAddress();
    open = true;
    drawHistory();
  },
  event(name, data) {
    const begin = performance.now();
    const value = JSON.parse(data);
    events[name]?.(value);
    performance.measure(`warmroute:${name}`, { start: begin, end: performance.now() });
    if (performance.getEntriesByType("measure").length > 500) performance.clearMeasures();
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
    const first = latest?.replicas.length !== overview.replicas.length;
    latest = overview;
    for (const panel of [header, fleet, misses, replicas, routers, experiment]) panel.overview(overview);
    if (first) drawHistory();
  },
  bucket(bucket) {
    history.add(bucket);
    drawHistory();
  },
  requests: (list) => requests.add(list),
  audit: (entries) => audit.add(entries),
};

function drawHistory() {
  if (!latest) return;
  heat.show(
    history,
    latest.replicas.map(({ replica }) => replica),
  );
  replicas.history(history);
  if (!history.end) return;
  const groups = range.groups(history);
  for (const panel of [fleet, misses]) panel.groups(groups);
}

async function loadHistory() {
  history.load(await get("history?seconds=3600"));
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

setInterval(() => {
  if (open && !document.hidden) loadSlow();
}, SLOW_MS);
followSections();
stream.start();
