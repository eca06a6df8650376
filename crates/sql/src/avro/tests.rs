use super::*;
use crate::catalog::Catalog;
use crate::parser::Naming;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{Decimal, Schema};

const PEDIDO: &str = r#"{"type": "record", "name": "Pedido", "fields": [
    {"name": "Id", "type": "string"},
    {"name": "n", "type": ["null", "int"], "default": null},
    {"name": "precio",
     "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    {"name": "cuando", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "nivel", "type": {"type": "enum", "name": "Nivel", "symbols": ["ALTO", "BAJO"]}},
    {"name": "antes", "type": ["null", "Nivel"], "default": null},
    {"name": "etiquetas", "type": {"type": "map", "values": "string"}}]}"#;

const COLUMNS: &str = "id STRING, n INT, precio DECIMAL(9, 2), cuando BIGINT, nivel STRING, \
    antes STRING, etiquetas MAP<STRING, STRING>";

fn framed(id: u32, schema: &Schema, value: Avro) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(id.to_be_bytes());
    let writer = GenericDatumWriter::builder(schema).build().expect("a writer");
    bytes.extend(writer.write_value_to_vec(value).expect("a datum"));
    bytes
}

fn read(schemas: &Schemas, bytes: &[u8], columns: &str) -> Result<String, String> {
    read_by(schemas, bytes, columns, "")
}

fn read_by(schemas: &Schemas, bytes: &[u8], columns: &str, with: &str) -> Result<String, String> {
    let with = format!("WITH (KAFKA_TOPIC='s', VALUE_FORMAT='AVRO'{with})");
    let sql = format!("CREATE STREAM s ({columns}) {with};");
    let catalog = Catalog::compile(&sql, Naming::Lower).expect("a stream");
    Ok(schemas.read(bytes, &catalog.sources["s"])?.to_string())
}

fn schemas(text: &str) -> Schemas {
    let mut schemas = Schemas::default();
    schemas.add(9, text).expect("a schema");
    schemas
}

fn pedido() -> Vec<u8> {
    let record = Avro::Record(vec![
        ("Id".into(), Avro::String("p-1".into())),
        ("n".into(), Avro::Union(1, Box::new(Avro::Int(7)))),
        ("precio".into(), Avro::Decimal(Decimal::from(vec![0xff, 0x38]))),
        ("cuando".into(), Avro::TimestampMicros(1_500)),
        ("nivel".into(), Avro::Enum(1, "BAJO".into())),
        ("antes".into(), Avro::Union(1, Box::new(Avro::Enum(0, "ALTO".into())))),
        ("etiquetas".into(), Avro::Map([("a".to_owned(), Avro::String("b".into()))].into())),
    ]);
    framed(9, &Schema::parse_str(PEDIDO).expect("a schema"), record)
}

#[test]
fn a_record_becomes_the_json_of_a_test_file() {
    let bytes = pedido();
    let unknown = read(&Schemas::default(), &bytes, COLUMNS).expect_err("unknown");
    assert!(unknown.contains("schema id 9"), "{unknown}");
    let schemas = schemas(PEDIDO);
    assert_eq!(
        read(&schemas, &bytes, COLUMNS).expect("a record"),
        r#"{"Id": "p-1", "n": 7, "precio": -2.00, "cuando": 1, "nivel": "BAJO", "antes": "ALTO", "etiquetas": {"a": "b"}}"#
    );
    assert_eq!(read(&schemas, &bytes, "n INT").expect("a record"), r#"{"n": 7}"#);
    assert_eq!(read(&schemas, &bytes, "k STRING KEY"), Ok("{}".into()));
    let bare = ", WRAP_SINGLE_VALUE='false'";
    assert_eq!(
        read_by(&schemas, &bytes, "todo STRUCT<n INT>", bare).expect("a record"),
        r#"{"n": 7}"#
    );
    let int = self::schemas(r#""int""#);
    assert_eq!(read_by(&int, &[0, 0, 0, 0, 9, 14], "n INT", bare), Ok("7".into()));
    assert!(read(&int, &[0, 0, 0, 0, 9, 14], "n INT").expect_err("int").contains("no record"));
    assert!(read(&schemas, b"{}", "n INT").expect_err("no frame").contains("framing"));
}

#[test]
fn a_value_that_ends_early_or_late_is_refused() {
    let (schemas, bytes) = (schemas(PEDIDO), pedido());
    for columns in [COLUMNS, "n INT"] {
        for length in 5..bytes.len() {
            let error = read(&schemas, &bytes[..length], columns).expect_err("truncated");
            assert!(error.starts_with("its value cannot be read"), "{length}: {error}");
        }
        let longer = [&bytes[..], b"\0"].concat();
        let error = read(&schemas, &longer, columns).expect_err("trailing");
        assert!(error.contains("trailing bytes"), "{error}");
    }
    let nullable = self::schemas(
        r#"{"type": "record", "name": "R", "fields": [{"name": "n", "type": ["null", "string"]}]}"#,
    );
    assert!(read(&nullable, &[0, 0, 0, 0, 9], "n STRING").is_err());
}

const SECRETO: &str = r#"{"type": "record", "name": "S", "fields": [
    {"name": "foto", "type": "bytes"},
    {"name": "huella", "type": {"type": "fixed", "name": "F", "size": 3}},
    {"name": "dentro", "type": {"type": "array", "items": {"type": "record", "name": "D",
        "fields": [{"name": "crudo", "type": "bytes"}, {"name": "x", "type": "float"}]}}},
    {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "n", "type": "long"}]}"#;

#[test]
fn what_nobody_declared_is_passed_over_and_nothing_of_the_data_is_said() {
    let schemas = schemas(SECRETO);
    let inner = Avro::Record(vec![
        ("crudo".into(), Avro::Bytes(b"77".to_vec())),
        ("x".into(), Avro::Float(0.5)),
    ]);
    let uuid = "936da01f-9abd-4d9d-80c7-02af85c822a8";
    let record = Avro::Record(vec![
        ("foto".into(), Avro::Bytes(b"4111111111111111".to_vec())),
        ("huella".into(), Avro::Fixed(3, b"411".to_vec())),
        ("dentro".into(), Avro::Array(vec![inner])),
        ("id".into(), Avro::Uuid(uuid.parse().expect("a uuid"))),
        ("n".into(), Avro::Long(5)),
    ]);
    let bytes = framed(9, &Schema::parse_str(SECRETO).expect("a schema"), record);
    assert_eq!(read(&schemas, &bytes, "n BIGINT"), Ok(r#"{"n": 5}"#.into()));
    assert_eq!(
        read(&schemas, &bytes, "id STRING, dentro ARRAY<STRUCT<x DOUBLE>>"),
        Ok(format!(r#"{{"dentro": [{{"x": 0.5}}], "id": "{uuid}"}}"#))
    );
    for column in ["foto STRING", "huella STRING", "dentro STRING"] {
        let error = read(&schemas, &bytes, column).expect_err("bytes");
        assert!(error.contains("has no type in SQL"), "{error}");
        let digits = error.chars().filter(|c| matches!(c, '1' | '4' | '7' | '5')).count();
        assert_eq!(digits, 0, "{error}");
    }
}

#[test]
fn a_schema_that_contains_itself_or_is_too_large_is_refused_with_words() {
    let mut schemas = Schemas::default();
    let list = r#"{"type": "record", "name": "L", "fields": [
        {"name": "n", "type": "int"}, {"name": "next", "type": ["null", "L"]}]}"#;
    assert!(schemas.add(1, list).expect_err("recursive").contains("the type L contains itself"));
    let endless = r#"{"type": "record", "name": "E", "fields": [{"name": "e", "type": "E"}]}"#;
    assert!(schemas.add(1, endless).expect_err("recursive").contains("contains itself"));
    let error = read(&schemas, &[0, 0, 0, 0, 1, 2], "n INT").expect_err("refused");
    assert!(error.contains("schema id 1 of caudal_esquemas: "), "{error}");
    assert!(error.contains("the type E contains itself"), "{error}");
    let mut deep = r#""int""#.to_owned();
    for _ in 0..64 {
        deep = format!(r#"{{"type": "array", "items": {deep}}}"#);
    }
    assert!(schemas.add(2, &deep).expect_err("deep").contains("nested deeper"));
    // Each record holds the one before twice: 2^20 values that take no byte.
    let mut wide = r#"{"type": "record", "name": "W0", "fields": []}"#.to_owned();
    for n in 1..20 {
        wide = format!(
            r#"{{"type": "record", "name": "W{n}", "fields": [
                {{"name": "a", "type": {wide}}}, {{"name": "b", "type": "W{}"}}]}}"#,
            n - 1
        );
    }
    assert!(schemas.add(3, &wide).expect_err("wide").contains("more than"));
    assert!(schemas.add(10, "{").is_err());
    assert!(!schemas.knows(10));
    schemas.add(1, r#""int""#).expect("published anew");
    assert!(schemas.knows(1));
}
