//! The dashboard: its form, and that every metric it and the alerts name is one that somebody
//! exports, on a real cluster with records flowing.

use anyhow::{Context as _, Result, bail, ensure};
use caudal_e2e::fault::wait_until;
use caudal_e2e::pipeline::Pipeline;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// About half a minute of input, so that rates exist while everything is scraped.
const PRODUCE: [&str; 6] = ["--generate", "6000", "--seed", "31", "--rate", "200"];
/// Exported by Prometheus itself.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];
/// Words of PromQL that may stand where a metric could.
const WORDS: [&str; 9] =
    ["and", "or", "unless", "bool", "offset", "group_left", "group_right", "inf", "nan"];
/// Words of PromQL that are followed by labels in parentheses.
const OF_LABELS: [&str; 4] = ["by", "without", "on", "ignoring"];
/// Panels with nothing to show while all is well.
const QUIET: [&str; 1] = ["caudal_sink_errors_total"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn dashboards() -> Result<Vec<(String, Json)>> {
    let files = std::fs::read_dir(root().join("dashboards"))?;
    let read = files.map(|file| {
        let path = file?.path();
        let text = std::fs::read_to_string(&path)?;
        let name = path.display().to_string();
        Ok((name.clone(), serde_json::from_str(&text).context(name)?))
    });
    read.collect()
}

/// Panels but rows.
fn panels(dashboard: &Json) -> Result<Vec<&Json>> {
    let all = dashboard["panels"].as_array().context("panels")?;
    Ok(all.iter().filter(|panel| panel["type"] != "row").collect())
}

fn expressions(panel: &Json) -> Result<Vec<&str>> {
    let targets = panel["targets"].as_array().context("targets")?;
    targets.iter().map(|target| target["expr"].as_str().context("expr")).collect()
}

fn rule_expressions() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(root().join("config/prometheus/rules"))? {
        let rules: Json = serde_norway::from_str(&std::fs::read_to_string(file?.path())?)?;
        for group in rules["groups"].as_array().context("groups")? {
            for rule in group["rules"].as_array().context("rules")? {
                found.push(rule["expr"].as_str().context("expr")?.to_owned());
            }
        }
    }
    Ok(found)
}

/// Names of metrics in a PromQL expression.
fn metrics(expression: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(letter) = rest.chars().next() {
        let close = match letter {
            '{' => Some('}'),
            '[' => Some(']'),
            '"' => Some('"'),
            _ => None,
        };
        if let Some(close) = close {
            let end = rest[1..].find(close).with_context(|| format!("no {close}: {expression}"))?;
            rest = &rest[end + 2..];
            continue;
        }
        let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let end = rest.find(|c| !is_inside(c)).unwrap_or(rest.len());
        if end == 0 {
            rest = &rest[letter.len_utf8()..];
            continue;
        }
        let (word, after) = rest.split_at(end);
        rest = after;
        if OF_LABELS.contains(&word) {
            let end = rest.find(')').with_context(|| format!("no ): {expression}"))?;
            rest = &rest[end + 1..];
        } else if !letter.is_ascii_digit()
            && !WORDS.contains(&word)
            // `sum by (…)` and `rate(…)` are not metrics.
            && !["(", "by ", "without "].iter().any(|next| rest.trim_start().starts_with(next))
        {
            found.insert(word.to_owned());
        }
    }
    Ok(found)
}

#[test]
fn metrics_are_found_in_expressions() -> Result<()> {
    let found = metrics(
        "histogram_quantile(0.99, sum by (le, x) (rate(a_bucket{l=~\"b|c\"}[1m]))) / (d or vector(0)) > 1e3",
    )?;
    ensure!(found.iter().eq(["a_bucket", "d"]), "{found:?}");
    Ok(())
}

#[test]
fn dashboards_are_whole() -> Result<()> {
    for (file, dashboard) in dashboards()? {
        ensure!(dashboard["schemaVersion"].as_u64() >= Some(39), "{file}: schemaVersion");
        ensure!(dashboard["uid"].is_string() && dashboard["title"].is_string(), "{file}: uid");
        let variables = dashboard["templating"]["list"].as_array().context("variables")?;
        let is_datasource = |v: &Json| {
            v["name"] == "datasource" && v["type"] == "datasource" && v["query"] == "prometheus"
        };
        ensure!(variables.iter().any(is_datasource), "{file}: no variable datasource");
        let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().context("panels")? {
            ensure!(ids.insert(panel["id"].as_u64().context("id")?), "{file}: an id twice");
            let at = |name: &str| panel["gridPos"][name].as_u64().context("gridPos");
            ensure!(at("x")? + at("w")? <= 24, "{file}: wider than the page: {panel}");
            for x in at("x")?..at("x")? + at("w")? {
                for y in at("y")?..at("y")? + at("h")? {
                    ensure!(cells.insert((x, y)), "{file}: panels overlap: {panel}");
                }
            }
        }
        for panel in panels(&dashboard)? {
            whole(panel).with_context(|| format!("{file}: {}", panel["title"]))?;
        }
    }
    Ok(())
}

fn whole(panel: &Json) -> Result<()> {
    for text in [&panel["title"], &panel["description"], &panel["fieldConfig"]["defaults"]["unit"]]
    {
        ensure!(text.as_str().is_some_and(|t| !t.is_empty()), "title, description or unit");
    }
    let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array();
    let steps = steps.context("no thresholds")?;
    ensure!(!steps.is_empty(), "no thresholds");
    ensure!(steps.iter().all(|step| step["value"] != 80), "the default threshold of 80");
    for source in [&panel["datasource"], &panel["targets"][0]["datasource"]] {
        ensure!(source["uid"] == "${datasource}", "a hard-coded datasource");
    }
    for link in panel["links"].as_array().context("links")? {
        let page = link["url"].as_str().and_then(|url| url.strip_prefix("${runbooks}/"));
        let page = page.context("a link that leads to no runbook")?;
        ensure!(root().join("runbooks").join(page).is_file(), "{page} is not there");
    }
    for expression in expressions(panel)? {
        let ranges: Vec<&str> = expression.split('[').skip(1).collect();
        let known = |r: &&str| r.starts_with("$__rate_interval]") || r.starts_with("$__range]");
        ensure!(ranges.iter().all(known), "a hard-coded range: {expression}");
        for name in metrics(expression)?.iter().filter(|name| name.ends_with("_total")) {
            let rated =
                ["rate(", "increase("].iter().any(|f| expression.contains(&format!("{f}{name}")));
            ensure!(rated, "{name} is a counter: rate or increase");
        }
    }
    Ok(())
}

/// Body of a GET. HTTP/1.0, so that it comes in one piece.
fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.contains(" 200 ") || path.contains("/api/"), "{address}{path}: {head}");
    Ok(body.to_owned())
}

/// Names of the samples at an address.
fn exported(address: &str) -> Result<BTreeSet<String>> {
    let body = get(address, "/metrics")?;
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect())
}

#[test]
fn every_metric_is_exported() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("dashboard")? else { return Ok(()) };
    let topology = pipeline.stack.topology();
    let mut running = Vec::new();
    let mut addresses = Vec::new();
    for (name, args) in
        [("caudal-processor", &[][..]), ("caudal-sink", &[][..]), ("caudal-producer", &PRODUCE[..])]
    {
        let address = format!("127.0.0.1:{}", topology.services[name]);
        let listen = ["--metrics-listen", address.as_str()];
        running.push(pipeline.start(name, name, &[args, &listen[..]].concat())?);
        addresses.push(address);
    }
    wait_until("rows in PostgreSQL", Duration::from_secs(90), || {
        let count = "SELECT count(*)::text FROM transactions";
        let rows = caudal_e2e::query::text(&pipeline.database_url, count);
        // The sink makes the tables when it starts.
        Ok(rows.is_ok_and(|rows| rows.parse::<u64>().is_ok_and(|rows| rows > 1000)))
    })?;
    addresses.extend(topology.nodes.iter().map(|node| format!("127.0.0.1:{}", node.jmx_port)));
    let mut names: BTreeSet<String> = OF_PROMETHEUS.iter().map(|name| (*name).to_owned()).collect();
    for address in &addresses {
        names.extend(exported(address)?);
    }
    let mut used = 0;
    for (file, dashboard) in dashboards()? {
        for panel in panels(&dashboard)? {
            for name in expressions(panel)?.into_iter().map(metrics).collect::<Result<Vec<_>>>()? {
                used += name.len();
                let unknown: Vec<_> = name.difference(&names).collect();
                ensure!(
                    unknown.is_empty(),
                    "{file}, {}: nobody exports {unknown:?}",
                    panel["title"]
                );
            }
        }
    }
    for expression in rule_expressions()? {
        let unknown: Vec<_> = metrics(&expression)?.difference(&names).cloned().collect();
        ensure!(unknown.is_empty(), "{expression}: nobody exports {unknown:?}");
    }
    println!(
        "{used} uses of metrics, {} names exported at {} addresses",
        names.len(),
        addresses.len()
    );
    match pipeline.stack.prometheus_url() {
        Some(url) => execute(url.trim_start_matches("http://"), &dashboards()?),
        None => {
            println!("skipped: the queries were not executed, Prometheus is not installed");
            Ok(())
        }
    }
}

/// Every query gives at least one series that is a number.
fn execute(address: &str, dashboards: &[(String, Json)]) -> Result<()> {
    let mut done = 0;
    for (file, dashboard) in dashboards {
        for panel in panels(dashboard)? {
            for expression in expressions(panel)? {
                let quiet = QUIET.iter().any(|name| expression.contains(name));
                // Rates need two scrapes of a service that has just started.
                let patience = Duration::from_secs(if quiet { 0 } else { 40 });
                let what = format!("{file}, {}: {expression}", panel["title"]);
                let result = wait_until(&what, patience, || query(address, expression));
                if !quiet {
                    result?;
                }
                done += 1;
            }
        }
    }
    println!("{done} queries executed by Prometheus");
    Ok(())
}

/// Whether a query has a finite result now.
fn query(address: &str, expression: &str) -> Result<bool> {
    let text = expression.replace("$__rate_interval", "1m").replace("$__range", "15m");
    let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer: Json =
        serde_json::from_str(&get(address, &format!("/api/v1/query?query={escaped}"))?)?;
    if answer["status"] != "success" {
        bail!("{answer}");
    }
    let series = answer["data"]["result"].as_array().context("result")?;
    let finite = |s: &Json| {
        s["value"][1].as_str().and_then(|v| v.parse::<f64>().ok()).is_some_and(f64::is_finite)
    };
    Ok(!series.is_empty() && series.iter().any(finite))
}
