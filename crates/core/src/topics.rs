//! The names of the topics that the product ships (`config/topics.toml` declares them).

/// Raw input: whatever the producer, or anyone else, writes.
pub const TRANSACCIONES: &str = "transacciones";
/// Records that passed validation and dedup.
pub const VALIDAS: &str = "transacciones_validas";
/// One row per merchant, currency and minute.
pub const VENTAS_GOLD: &str = "ventas_gold";
/// Rows of the velocity rule.
pub const ALERTAS_FRAUDE: &str = "alertas_fraude";
/// Rejected input: original bytes and the reason.
pub const DLQ: &str = "transacciones_dlq";
/// Internal: pre-aggregated groups and watermarks from stage 1 to stage 2.
pub const PARCIALES: &str = "caudal_parciales";
/// Internal: state blocks of both stages.
pub const ESTADO: &str = "caudal_estado";
/// Internal: where each source stands.
pub const PROGRESO: &str = "caudal_progreso";
/// Internal: writer schemas by id.
pub const ESQUEMAS: &str = "caudal_esquemas";
