// Ask the server again and again, and say what it is told, or that nothing comes.
const LATE = 3000;  // ms without an answer until the page says so
const PATIENCE = 15000;  // ms until an answer is no longer waited for
const FAITH = 5000;  // ms for which the answers of other processes are passed over
const REPEAT = 15000;  // ms between two readings of the sentence while the state stays the same
const NO_ANSWER = "the server is down or starts again, or its event loop stands still";

let samples = [];  // of one process
let answered = Date.now();  // when it answered last
let silent = "";  // why there is no answer, once that is known
let paused = false;
let announced = 0;

function judge(state, sentence) {
  const changed = $("verdict").dataset.state !== state;
  $("verdict").dataset.state = state;
  say($("state"), state);
  say($("sentence"), sentence);
  document.title = `${state}: threads and connections`;
  // Read out when the state changes, not with every number that does.
  if (!changed && (state === "ok" || Date.now() - announced < REPEAT)) return;
  announced = Date.now();
  say($("announced"), `${state}. ${sentence}`);
}

function take(now) {
  const isOther = samples.length && samples[0].pid !== now.pid;
  // Of several processes behind one address each answers for itself: stay with one that does.
  if (isOther && !silent && Date.now() - answered < FAITH) return;
  if (isOther) { samples = []; weights.clear(); }
  samples = [...samples, now].slice(-SAMPLES);
  answered = Date.now();
  silent = "";
  $("figures").classList.remove("old");
  draw(samples);
  judge(now.verdict.state, now.verdict.sentence);
}

function complain() {
  const age = Date.now() - answered;
  if (paused || (!silent && age < LATE)) return;
  $("figures").classList.add("old");
  judge("no answer", `No figures for ${seconds(age / 1000)}: ${silent || NO_ANSWER}.`);
}

async function ask() {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), PATIENCE);
  try {
    const options = { headers: { accept: "application/json" }, cache: "no-store", signal: stop.signal };
    const answer = await fetch(location.href, options).catch(() => null);
    if (!answer) silent = NO_ANSWER;
    else if (!answer.ok) silent = `the server answers with status ${answer.status}`;
    else if (!paused) take(await answer.json());
  } catch (error) {
    silent = `the server's answer can't be read (${error.message})`;
  }
  clearTimeout(timer);
  complain();
}

async function look() {
  if (!paused) await ask();
  setTimeout(look, EVERY);
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  answered = Date.now();
});
$("all").addEventListener("click", () => { showAll = !showAll; draw(samples); });
setInterval(complain, EVERY);
look();
