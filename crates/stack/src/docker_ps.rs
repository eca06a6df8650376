//! The native brokers in the columns of `docker ps`, for people who follow the course.

use crate::status::{StackStatus, State};

/// Running Kafka nodes, one a line.
pub fn table(status: &StackStatus) -> String {
    let mut text = format!("{:<12} {:<22} {:<24} {}\n", "PID", "IMAGE", "PORTS", "NAMES");
    for part in &status.parts {
        let (State::Running, Some(pid)) = (part.state, part.pid) else { continue };
        if part.role == "server" {
            continue;
        }
        let ports: Vec<String> = part.ports.iter().map(|(_, port)| port.to_string()).collect();
        let (image, ports) = ("native (no container)", ports.join(", "));
        text.push_str(&format!("{pid:<12} {image:<22} {ports:<24} {}\n", part.name));
    }
    text
}
