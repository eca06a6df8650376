//! What `down` removes and what stays.

use std::path::Path;

use anyhow::Result;

use crate::layout::{self, Layout};
use crate::stack::{Progress, Stack};

/// Removes data, logs and scripts; the jars stay.
pub fn remove_data(stack: &Stack, postgres: &Path, progress: Progress<'_>) -> Result<()> {
    let layout = &stack.layout;
    let mut gone = 0;
    let folders = ["nodes", "logs", "bin", "settings", "prometheus", "run"];
    let inside = folders.iter().map(|name| layout.home().join(name));
    for path in inside.chain([postgres.to_owned()]) {
        let bytes = layout::disk_bytes(&path);
        layout::remove(&path)?;
        gone += bytes;
    }
    let socket = stack.postgres()?.socket_dir();
    layout::remove(&socket)?;
    // Only an empty home goes; other things in it are not the stack's.
    std::fs::remove_dir(layout.home()).ok();
    progress(&format!("wiped {}", size(gone)));
    Ok(())
}

/// Tells what is left on disk, and how to remove it.
pub fn say_what_stays(layout: &Layout, postgres: &Path, progress: Progress<'_>) {
    let jars = layout::disk_bytes(layout.jars());
    let home = layout::disk_bytes(layout.home());
    let own_jars = layout.jars().starts_with(layout.home());
    let mut data = home - if own_jars { jars.min(home) } else { 0 };
    if !postgres.starts_with(layout.home()) {
        data += layout::disk_bytes(postgres);
    }
    if data > (1 << 20) {
        progress(&format!(
            "stays: data and logs, {} in {} (removed by `caudal stack down --wipe`)",
            size(data),
            layout.home().display()
        ));
    }
    if !postgres.starts_with(layout.home()) && postgres.exists() {
        progress(&format!("       of which PostgreSQL's in {}", postgres.display()));
    }
    if jars > 0 {
        progress(&format!(
            "stays: Kafka's and PostgreSQL's jars, {} in {} (shared; remove the folder to fetch \
             them again)",
            size(jars),
            layout.jars().display()
        ));
    }
}

/// Bytes in words.
pub fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib >= 1024.0 { format!("{:.1} GiB", mib / 1024.0) } else { format!("{mib:.0} MiB") }
}
