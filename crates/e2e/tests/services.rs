//! A student's line; readiness, metrics, SIGTERM and exit codes of every service.

use anyhow::{Context as _, Result, ensure};
use caudal_e2e::fault::wait_until;
use caudal_e2e::http::{get, is_ready};
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::query;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_students_line_ends_as_a_row_and_services_stop_in_good_order() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("services")? else { return Ok(()) };
    let (for_processor, for_sink) = (pipeline.metrics_address(0)?, pipeline.metrics_address(1)?);
    let mut processor = pipeline.start(
        "caudal-processor",
        "processor",
        &["--metrics-listen", &for_processor, "--log-format", "json"],
    )?;
    let mut sink = pipeline.start(
        "caudal-sink",
        "sink",
        &["--metrics-listen", &for_sink, "--log-format", "json"],
    )?;
    wait_until("the services are ready", Duration::from_secs(90), || {
        Ok(is_ready(&for_processor) && is_ready(&for_sink))
    })?;
    let line = r#"{"transaction_id":"alumna-1","account_id":"cuenta-7","merchant_id":"libreria","amount":"12.50","currency":"EUR","kind":"PURCHASE","event_time":"2026-01-31T12:00:00Z"}"#;
    pipeline.console_produce("transacciones", &format!("{line}\n"))?;
    wait_until("the row is there", Duration::from_secs(60), || {
        let found = query::texts(
            &pipeline.database_url,
            "SELECT transaction_id || ' ' || amount FROM transactions",
        )?;
        Ok(found == ["alumna-1 12.50"])
    })?;
    for address in [&for_processor, &for_sink] {
        let metrics = get(address, "/metrics")?;
        ensure!(metrics.contains("caudal_build_info"), "{address} has no metrics");
        ensure!(get(address, "/livez")?.starts_with("HTTP/1.1 200"), "{address} is not live");
    }
    ensure!(
        processor.terminate()?.code() == Some(0),
        "processor after SIGTERM; log {}",
        processor.log.display()
    );
    ensure!(sink.terminate()?.code() == Some(0), "sink after SIGTERM; log {}", sink.log.display());
    let log = std::fs::read_to_string(&processor.log)?;
    let json_lines =
        log.lines().filter(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()).count();
    ensure!(json_lines == log.lines().count() && json_lines > 0, "logs are not all JSON: {log}");
    pipeline.assert_balanced()
}

#[test]
fn wrong_arguments_and_absent_topics_are_told_apart() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("exit_codes")? else { return Ok(()) };
    let code = |name: &str, args: &[&str]| -> Result<Option<i32>> {
        Ok(pipeline.command(name)?.args(args).output()?.status.code())
    };
    for name in ["caudal-producer", "caudal-processor", "caudal-sink"] {
        ensure!(code(name, &["--no-such-option"])? == Some(2), "{name} --no-such-option");
        let help = pipeline.command(name)?.arg("--help").output()?;
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        ensure!(
            help.contains("Exit codes:") && help.contains("BOOTSTRAP_SERVERS"),
            "{name} --help"
        );
    }
    let config = pipeline.logs.join("client.properties");
    std::fs::write(&config, "security.protocol=PLAINTEXT\nacks=1\n")?;
    let output =
        pipeline.command("caudal-processor")?.arg("--kafka-config").arg(&config).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && text.contains("unknown key acks"),
        "unknown Kafka keys: {text}"
    );
    ensure!(text.contains("client.properties:2"), "the line is not named: {text}");
    Ok(())
}

#[test]
fn secrets_are_not_logged() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("secrets")? else { return Ok(()) };
    let url = pipeline.database_url.replace("caudal:caudal@", "caudal:hunter2secret@");
    let mut sink = pipeline.command("caudal-sink")?;
    sink.env("DATABASE_URL", url).env("CAUDAL_LOG", "debug");
    let child =
        sink.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()?;
    std::thread::sleep(Duration::from_secs(3));
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().context("kill")?;
    let output = child.wait_with_output()?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(!text.contains("hunter2secret"), "the password is in the log");
    ensure!(!text.is_empty(), "the sink said nothing");
    Ok(())
}
