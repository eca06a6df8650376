//! `docker/`, as far as it can be checked without a container engine.

use anyhow::{Context as _, Result, ensure};
use caudal_e2e::pipeline::Pipeline;
use caudal_stack::topology::Topology;
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const SERVICES: [&str; 11] = [
    "broker-1",
    "broker-2",
    "broker-3",
    "grafana",
    "jmx-agent",
    "postgres",
    "processor",
    "producer",
    "prometheus",
    "sink",
    "topics",
];
/// What a container's broker sets in its own way: names, ports and the data folder.
const OF_THE_NODE: [&str; 7] = [
    "process.roles",
    "node.id",
    "controller.quorum.voters",
    "listeners",
    "advertised.listeners",
    "listener.security.protocol.map",
    "log.dirs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

fn compose() -> Result<Json> {
    let mut value: serde_norway::Value = serde_norway::from_str(&read("docker/compose.yaml")?)?;
    value.apply_merge()?;
    Ok(serde_json::to_value(value)?)
}

fn services(compose: &Json) -> Result<&Map<String, Json>> {
    compose["services"].as_object().context("services")
}

/// Items of a list in a service; none when it has no such list.
fn texts<'a>(service: &'a Json, key: &str) -> Vec<&'a str> {
    service[key].as_array().into_iter().flatten().filter_map(Json::as_str).collect()
}

fn topology() -> Result<Topology> {
    Topology::load(None, 0)
}

#[test]
fn names_are_those_of_the_course() -> Result<()> {
    let compose = compose()?;
    let services = services(&compose)?;
    ensure!(services.keys().map(String::as_str).eq(SERVICES), "{:?}", services.keys());
    for node in &topology()?.nodes {
        let broker = &services[&node.name];
        ensure!(broker["container_name"] == node.name.as_str(), "{}", node.name);
        ensure!(broker["hostname"] == node.name.as_str(), "{}", node.name);
    }
    for name in ["processor", "sink"] {
        ensure!(services[name]["restart"] == "unless-stopped", "{name} is not restarted");
        ensure!(services[name]["hostname"] == name, "{name}: its instance would change its name");
    }
    ensure!(services.values().all(|service| service["mem_limit"].is_string()), "a memory limit");
    Ok(())
}

/// Text between two others.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Result<&'a str> {
    let (_, rest) = text.split_once(start).with_context(|| format!("no {start}"))?;
    Ok(rest.split_once(end).with_context(|| format!("no {end}"))?.0)
}

#[test]
fn images_are_pinned_to_the_native_stacks_versions() -> Result<()> {
    let compose = compose()?;
    let dockerfile = read("docker/Dockerfile")?;
    let from = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM "));
    let mut images: Vec<&str> = from.filter_map(|line| line.split(' ').next()).collect();
    images.extend(services(&compose)?.values().filter_map(|service| service["image"].as_str()));
    for image in &images {
        let (_, tag) = image.rsplit_once(':').with_context(|| format!("{image} has no tag"))?;
        let numbered = tag.chars().filter(|c| *c == '.').count() >= 1;
        ensure!(numbered || *image == "caudal:local", "{image} is not pinned");
    }
    let pom = read("crates/stack/pom.xml")?;
    let version = |name: &str| between(&pom, &format!("<{name}>"), &format!("</{name}>"));
    let kafka = format!("apache/kafka:{}", version("kafka.version")?);
    ensure!(images.contains(&kafka.as_str()), "{kafka}");
    let postgres = images.iter().find_map(|image| image.strip_prefix("postgres:"));
    let postgres = postgres.context("no postgres")?;
    ensure!(version("postgres.version")? == format!("{postgres}.0"), "postgres {postgres}");
    let agent = format!("jmx_prometheus_javaagent:{}", version("jmx.exporter.version")?);
    let command = services(&compose)?["jmx-agent"]["command"].to_string();
    ensure!(command.contains(&agent), "{agent}");
    let manifest = read("Cargo.toml")?;
    let rust = between(&manifest, "rust-version = \"", "\"")?;
    ensure!(dockerfile.contains(&format!("FROM rust:{rust}.")), "rust {rust}");
    Ok(())
}

#[test]
fn everything_that_is_named_is_there() -> Result<()> {
    let compose = compose()?;
    for (name, service) in services(&compose)? {
        for mount in texts(service, "volumes") {
            let source = mount.split(':').next().context("volume")?;
            if source.starts_with('.') {
                ensure!(root().join("docker").join(source).exists(), "{name}: {source}");
            } else {
                ensure!(compose["volumes"].get(source).is_some(), "{name}: volume {source}");
            }
        }
        for key in ["context", "dockerfile"] {
            let Some(path) = service["build"][key].as_str() else { continue };
            let base = if key == "context" { "docker" } else { "" };
            ensure!(root().join(base).join(path).exists(), "{name}: {path}");
        }
        for (other, how) in service["depends_on"].as_object().into_iter().flatten() {
            let other = services(&compose)?.get(other).with_context(|| format!("no {other}"))?;
            let healthy = how["condition"] == "service_healthy";
            ensure!(!healthy || other["healthcheck"]["test"].is_array(), "{name}: health");
        }
    }
    for line in read("docker/Dockerfile")?.lines().filter(|line| line.starts_with("COPY ")) {
        if line.contains("--from=") {
            continue;
        }
        let words: Vec<&str> = line.split(' ').skip(1).collect();
        for source in words.split_last().context("COPY")?.1 {
            ensure!(root().join(source).exists(), "{line}");
        }
    }
    // What the services are told by name must be in the image.
    for (variable, file) in
        [("CAUDAL_SINK_CONFIG", "config/sink.toml"), ("CAUDAL_TOPICS", "config/topics.toml")]
    {
        let used = services(&compose)?.values().find_map(|s| s["environment"][variable].as_str());
        let used = used.with_context(|| format!("no {variable}"))?;
        ensure!(used.strip_prefix("/etc/caudal") == file.strip_prefix("config"), "{used}");
        ensure!(root().join(file).is_file(), "{file}");
    }
    Ok(())
}

#[test]
fn ports_are_the_native_ones_and_do_not_collide() -> Result<()> {
    let compose = compose()?;
    let topology = topology()?;
    let mut published = BTreeMap::new();
    for (name, service) in services(&compose)? {
        for port in texts(service, "ports") {
            let parts: Vec<&str> = port.split(':').collect();
            ensure!(parts.len() == 3 && parts[0] == "127.0.0.1", "{name}: {port} is open to all");
            let before = published.insert(parts[1].parse::<u16>()?, name.as_str());
            ensure!(before.is_none(), "{} is published twice", parts[1]);
        }
    }
    let mut wanted = BTreeMap::from([
        (topology.postgres.port, "postgres"),
        (topology.prometheus.port, "prometheus"),
        (topology.services["caudal-processor"], "processor"),
        (topology.services["caudal-sink"], "sink"),
        (3000, "grafana"),
    ]);
    for node in &topology.nodes {
        wanted.insert(node.client_port.context("client_port")?, &node.name);
    }
    ensure!(published == wanted, "published: {published:?}\nwanted: {wanted:?}");
    Ok(())
}

fn properties(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).collect()
}

/// What the entrypoint makes of the template for a broker.
fn rendered(name: &str, data: &str) -> Result<String> {
    let compose = compose()?;
    let environment = services(&compose)?[name]["environment"].clone();
    let output = Command::new("sh")
        .arg(root().join("docker/kafka/entrypoint.sh"))
        .arg("render")
        .env("TEMPLATE", root().join("config/kafka/server.properties"))
        .env("DATA_DIR", data)
        .envs(["NODE_ID", "CLIENT_PORT"].map(|key| (key, environment[key].as_str().unwrap_or(""))))
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "the entrypoint failed: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn brokers_have_the_native_settings() -> Result<()> {
    let template = read("config/kafka/server.properties")?;
    let template = properties(&template);
    let topology = topology()?;
    for node in &topology.nodes {
        let text = rendered(&node.name, "/var/lib/kafka/data")?;
        let found = properties(&text);
        ensure!(found.keys().eq(template.keys()), "{}: other settings", node.name);
        for (key, value) in &found {
            ensure!(!value.contains('@') || *key == "controller.quorum.voters", "{key}={value}");
            let wanted = match *key {
                "broker.session.timeout.ms" => topology.cluster.session_timeout_ms.to_string(),
                "broker.heartbeat.interval.ms" => {
                    topology.cluster.heartbeat_interval_ms.to_string()
                }
                key if OF_THE_NODE.contains(&key) => continue,
                key => template[key].to_owned(),
            };
            ensure!(*value == wanted, "{}: {key}={value}, natively {wanted}", node.name);
        }
        ensure!(found["node.id"] == node.id.to_string(), "{}", node.name);
        ensure!(found["process.roles"] == node.roles_text(), "{}", node.name);
        let port = node.client_port.context("client_port")?;
        let advertised = found["advertised.listeners"];
        ensure!(advertised.contains(&format!("HOST://localhost:{port},")), "{advertised}");
        ensure!(advertised.contains(&format!("PLAINTEXT://{}:19092,", node.name)), "{advertised}");
        let voters: BTreeSet<&str> = found["controller.quorum.voters"].split(',').collect();
        ensure!(voters.contains(format!("{}@{}:9093", node.id, node.name).as_str()), "{voters:?}");
        ensure!(voters.len() == topology.nodes.len(), "{voters:?}");
    }
    Ok(())
}

/// Kafka's formatter refuses listeners, voters and names that do not fit together.
#[test]
fn kafka_accepts_the_rendered_settings() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("docker")? else { return Ok(()) };
    let compose = compose()?;
    for node in &pipeline.stack.topology().nodes {
        let data = pipeline.logs.join(&node.name);
        caudal_stack::layout::remove(&data)?;
        let file = pipeline.logs.join(format!("{}.properties", node.name));
        std::fs::write(&file, rendered(&node.name, &data.display().to_string())?)?;
        let cluster = &services(&compose)?[&node.name]["environment"]["CLUSTER_ID"];
        let output = Command::new(pipeline.stack.home().join("bin/kafka-storage.sh"))
            .args(["format", "--cluster-id", cluster.as_str().context("CLUSTER_ID")?, "--config"])
            .arg(&file)
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&text));
        ensure!(data.join("meta.properties").is_file(), "nothing was formatted");
    }
    Ok(())
}

#[test]
fn prometheus_and_grafana_find_what_they_need() -> Result<()> {
    let text = read("docker/prometheus/prometheus.yml")?;
    let prometheus: Json = serde_norway::from_str(&text)?;
    let jobs = prometheus["scrape_configs"].as_array().context("scrape_configs")?;
    let names: BTreeSet<&str> = jobs.iter().filter_map(|job| job["job_name"].as_str()).collect();
    let topology = topology()?;
    let mut wanted: BTreeSet<&str> = topology.services.keys().map(String::as_str).collect();
    wanted.extend(["kafka", "prometheus"]);
    ensure!(names == wanted, "jobs {names:?}, natively {wanted:?}");
    for node in &topology.nodes {
        let target = format!(
            "- targets: ['{0}:9404']\n        labels: {{ broker: '{1}', node: '{0}' }}",
            node.name, node.id
        );
        ensure!(text.contains(&target), "no {target}");
    }
    let compose = compose()?;
    let mounted = |service: &str, path: &str| -> Result<bool> {
        let volumes = texts(&services(&compose)?[service], "volumes");
        Ok(volumes.iter().any(|volume| volume.ends_with(&format!(":{path}:ro"))))
    };
    ensure!(mounted("prometheus", "/etc/prometheus/rules")?, "the rules are not mounted");
    let provider: Json =
        serde_norway::from_str(&read("docker/grafana/provisioning/dashboards/caudal.yaml")?)?;
    let path = provider["providers"][0]["options"]["path"].as_str().context("path")?;
    ensure!(mounted("grafana", path)?, "{path} is not mounted");
    ensure!(mounted("grafana", "/usr/share/grafana/public/runbooks")?, "links lead nowhere");
    ensure!(read("dashboards/caudal.json")?.contains("\"/public/runbooks\""), "links");
    let source: Json =
        serde_norway::from_str(&read("docker/grafana/provisioning/datasources/prometheus.yaml")?)?;
    ensure!(source["datasources"][0]["url"] == "http://prometheus:9090", "{source}");
    Ok(())
}

#[test]
fn docker_compose_accepts_the_file() -> Result<()> {
    let has = |args: &[&str]| {
        Command::new("docker").args(args).output().is_ok_and(|output| output.status.success())
    };
    if !has(&["compose", "version"]) {
        println!("skipped: docker compose is not installed");
        return Ok(());
    }
    let file = root().join("docker/compose.yaml");
    let mut command = Command::new("docker");
    command.args(["compose", "-f"]).arg(file).args(["--profile", "producer", "config", "-q"]);
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
