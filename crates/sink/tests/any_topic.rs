//! Topics of others into a real PostgreSQL: tables made from Avro schemas and brought up to later ones,
//! JSON under a declared schema, keys of all modes, deletes. `CAUDAL_TEST_DATABASE_URL` names a server
//! on which databases may be created.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use caudal_core::avro::Writer;
use caudal_core::decode::Record;
use caudal_kafka::TopicPartition;
use caudal_sink::generic::Unknown;
use support::{Scratch, Sink, at};

const DEAD: &str = "SELECT string_agg(\"offset\" || ' ' || reason || ' ' || error, E'\\n'
    ORDER BY \"offset\") FROM dead_letters";

fn record(
    topic: &str,
    offset: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> (TopicPartition, Record) {
    let record = Record {
        offset,
        timestamp: 1_700_000_000_000,
        key: key.map(Into::into),
        value: value.map(Into::into),
        ..Record::default()
    };
    (at(topic, 0), record)
}

fn framed(id: u32, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::framed(id);
    write(&mut out);
    out.into_bytes()
}

fn schema(fields: &str) -> String {
    format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#)
}

const APPEND: &str = "[topics.pedidos]\nauto.create = true\nauto.evolve = true";

/// Every type of Avro's, in columns that the sink made, as PostgreSQL reads them back.
#[test]
fn every_type_has_its_column() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = Sink::of_file(&db.url, APPEND).unwrap().claiming(&["pedidos"]);
    let decimal =
        |of: &str| format!(r#"{{{of}, "logicalType": "decimal", "precision": 60, "scale": 4}}"#);
    let logical = |of: &str, name: &str| format!(r#"{{"type": "{of}", "logicalType": "{name}"}}"#);
    let types = [
        ("b", "\"boolean\"".to_owned()),
        ("i", "\"int\"".into()),
        ("l", "\"long\"".into()),
        ("f", "\"float\"".into()),
        ("d", "\"double\"".into()),
        ("x", "\"bytes\"".into()),
        ("s", "\"string\"".into()),
        ("e", r#"{"type": "enum", "name": "E", "symbols": ["A", "B"]}"#.into()),
        ("fx", r#"{"type": "fixed", "name": "F", "size": 2}"#.into()),
        ("n", decimal(r#""type": "bytes""#)),
        ("nf", decimal(r#""type": "fixed", "name": "D", "size": 24"#)),
        ("u", logical("string", "uuid")),
        ("da", logical("int", "date")),
        ("ti", logical("long", "time-micros")),
        ("ts", logical("long", "timestamp-millis")),
        ("lo", logical("long", "local-timestamp-micros")),
        ("a", r#"{"type": "array", "items": "int"}"#.into()),
        ("m", r#"{"type": "map", "values": "string"}"#.into()),
        ("r", r#"["null", {"type": "record", "name": "I", "fields": [{"name": "k", "type": "int"}]}]"#.into()),
        ("o", r#"["null", "string"]"#.into()),
        ("un", r#"["int", "string"]"#.into()),
    ];
    let fields = types.map(|(name, of)| format!(r#"{{"name": "{name}", "type": {of}}}"#)).join(",");
    assert_eq!(sink.learn("pedidos", Unknown::Value(7), &schema(&fields)).unwrap().len(), 1);
    let value = framed(7, |out| {
        out.boolean(true);
        out.long(-3);
        out.long(1 << 40);
        out.fixed(&1.5_f32.to_le_bytes());
        out.fixed8(2.25_f64.to_le_bytes());
        out.bytes(&[0, 255]);
        out.string("é");
        out.long(1);
        out.fixed(b"ab");
        out.decimal(-12_345);
        // 10^50: more than 128 bits.
        let wide = [&[0, 0, 0][..], &hex("446c3b15f9926687d2c40534fdb564000000000000")].concat();
        out.fixed(&wide);
        out.string("0f8fad5b-d9cb-469f-a165-70867728950e");
        out.long(-1);
        out.long(3_723_000_004);
        out.long(1_700_000_000_123);
        out.long(1_700_000_000_000_001);
        out.long(2);
        out.long(1);
        out.long(-2);
        out.long(0);
        out.long(1);
        out.string("k");
        out.string("v");
        out.long(0);
        out.long(1);
        out.long(9);
        out.long(0);
        out.long(1);
        out.string("text");
    });
    sink.store(&[record("pedidos", 0, None, Some(&value))]).unwrap();
    assert_eq!(db.text(DEAD), "");
    assert_eq!(
        db.text("SELECT row_to_json(pedidos) FROM pedidos"),
        "{\"b\":true,\"i\":-3,\"l\":1099511627776,\"f\":1.5,\"d\":2.25,\"x\":\"\\\\x00ff\",\"s\":\"é\",\
         \"e\":\"B\",\"fx\":\"\\\\x6162\",\"n\":-1.2345,\
         \"nf\":10000000000000000000000000000000000000000000000.0000,\
         \"u\":\"0f8fad5b-d9cb-469f-a165-70867728950e\",\"da\":\"1969-12-31\",\
         \"ti\":\"01:02:03.000004\",\"ts\":\"2023-11-14T22:13:20.123+00:00\",\
         \"lo\":\"2023-11-14T22:13:20.000001\",\"a\":[1, -2],\"m\":{\"k\": \"v\"},\"r_k\":9,\
         \"o\":null,\"un\":\"text\"}"
    );
    let types =
        "SELECT string_agg(data_type || CASE is_nullable WHEN 'YES' THEN '?' ELSE '' END, ' '
        ORDER BY ordinal_position) FROM information_schema.columns WHERE table_name = 'pedidos'";
    assert_eq!(
        db.text(types),
        "boolean integer bigint real double precision bytea text text bytea numeric numeric uuid date \
         time without time zone timestamp with time zone timestamp without time zone jsonb jsonb \
         integer? text? jsonb"
    );
}

fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// Schemas that come and go in mid-stream: forwards and backwards, in one batch.
#[test]
fn schemas_evolve_in_mid_stream() {
    let Some(mut db) = Scratch::create() else { return };
    let toml = "[topics.pedidos]\ninsert.mode = \"upsert\"\npk.mode = \"record_value\"\n\
                pk.fields = [\"id\"]\nauto.create = true\nauto.evolve = true";
    let mut sink = Sink::of_file(&db.url, toml).unwrap().claiming(&["pedidos"]);
    let id = r#"{"name": "id", "type": "long"}"#;
    let kind = |symbols: &str| {
        format!(
            r#"{{"name": "kind", "type": {{"type": "enum", "name": "K", "symbols": [{symbols}]}}}}"#
        )
    };
    let one = schema(&format!(r#"{id}, {}, {{"name": "n", "type": "int"}}"#, kind(r#""A""#)));
    let two =
        schema(&format!(r#"{}, {{"name": "note", "type": "string"}}, {id}"#, kind(r#""B", "A""#)));
    assert_eq!(sink.learn("pedidos", Unknown::Value(1), &one).unwrap(), ["table pedidos made"]);
    let first = framed(1, |out| {
        out.long(10);
        out.long(0);
        out.long(5);
    });
    sink.store(&[record("pedidos", 0, None, Some(&first))]).unwrap();
    let done = sink.learn("pedidos", Unknown::Value(2), &two).unwrap();
    assert_eq!(
        done,
        [
            "table pedidos: column kind takes more symbols now",
            "table pedidos: column note added",
            "table pedidos: column n may be NULL now"
        ]
    );
    let second = framed(2, |out| {
        out.long(0);
        out.string("new");
        out.long(11);
    });
    let again = framed(1, |out| {
        out.long(11);
        out.long(0);
        out.long(6);
    });
    let records = [
        record("pedidos", 1, None, Some(&second)),
        record("pedidos", 2, None, Some(&first)),
        record("pedidos", 3, None, Some(&again)),
    ];
    sink.store(&records).unwrap();
    let rows = "SELECT string_agg(concat_ws(',', id, kind, n, note), ' ' ORDER BY id) FROM pedidos";
    assert_eq!(db.text(rows), "10,A,5 11,A,6");
    assert_eq!(db.text(DEAD), "");
    // Another sink comes later, and finds everything as it should be.
    let mut later = Sink::of_file(&db.url, toml).unwrap();
    assert!(later.learn("pedidos", Unknown::Value(2), &two).unwrap().is_empty());
    assert!(later.learn("pedidos", Unknown::Value(1), &one).unwrap().is_empty());
}

/// What the file does not allow, or the table cannot hold, is said and not done.
#[test]
fn what_is_not_allowed_is_said() {
    let Some(mut db) = Scratch::create() else { return };
    let id = r#"{"name": "id", "type": "long"}"#;
    let one = schema(id);
    let keyed = "[topics.pedidos]\npk.mode = \"record_value\"\npk.fields = [\"id\"]";
    let refused = |db: &Scratch, toml: &str, avsc: &str| {
        let mut sink = Sink::of_file(&db.url, toml).unwrap();
        sink.learn("pedidos", Unknown::Value(1), avsc).unwrap_err().text
    };
    let none = refused(&db, keyed, &one);
    assert!(
        none.contains("no table pedidos") && none.contains("CREATE TABLE \"pedidos\""),
        "{none}"
    );
    db.run("CREATE TABLE pedidos (id integer, paid numeric(6, 2))");
    let lacking = refused(&db, keyed, &one);
    assert!(lacking.contains("CREATE UNIQUE INDEX ON \"pedidos\" (\"id\")"), "{lacking}");
    db.run("CREATE UNIQUE INDEX ON pedidos (id)");
    let more = schema(&format!(r#"{id}, {{"name": "note", "type": "string"}}"#));
    let lacking = refused(&db, keyed, &more);
    assert!(
        lacking.contains("auto.evolve is off") && lacking.contains("ADD COLUMN \"note\""),
        "{lacking}"
    );
    let other = schema(&format!(r#"{id}, {{"name": "paid", "type": "double"}}"#));
    let wrong = refused(&db, keyed, &other);
    assert!(wrong.contains("column paid is numeric(6,2), the schema gives double"), "{wrong}");
    assert_eq!(
        db.text(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = 'pedidos'::regclass
        AND attnum > 0"
        ),
        "2"
    );
    // An integer column takes the longs that fit, and a numeric(6, 2) what it need not round.
    let money = r#"{"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 3}"#;
    let fits = schema(&format!(r#"{id}, {{"name": "paid", "type": {money}}}"#));
    let mut sink = Sink::of_file(&db.url, keyed).unwrap().claiming(&["pedidos"]);
    sink.learn("pedidos", Unknown::Value(3), &fits).unwrap();
    let value = |id: i64, units: i128| {
        framed(3, |out| {
            out.long(id);
            out.decimal(units);
        })
    };
    let values = [value(1, 1_230), value(1 << 40, 0), value(2, 1_234), value(3, 99_999_000)];
    let records = (0..).zip(&values).map(|(o, v)| record("pedidos", o, None, Some(v)));
    sink.store(&records.collect::<Vec<_>>()).unwrap();
    assert_eq!(db.text("SELECT string_agg(id || ' ' || paid, ',') FROM pedidos"), "1 1.23");
    let dead = db.text(DEAD);
    for (line, wanted) in
        dead.lines().zip(["1 constraint column id", "2 amount column paid", "3 amount"])
    {
        assert!(line.starts_with(wanted), "{dead}");
    }
    assert!(dead.contains("SQLSTATE=22003"), "{dead}");
}

/// `pk.mode = record_key`: the key is the record's, and a record without a value deletes.
#[test]
fn keys_of_records_and_deletes() {
    let Some(mut db) = Scratch::create() else { return };
    let toml = "[topics.clientes]\ntable.name.format = \"mis_${topic}\"\ninsert.mode = \"upsert\"\n\
                pk.mode = \"record_key\"\npk.fields = [\"id\"]\ndelete.enabled = true\n\
                auto.create = true\ncompacted = true";
    let mut sink = Sink::of_file(&db.url, toml).unwrap().claiming(&["clientes"]);
    // A tombstone may be all that compaction left, before any value.
    sink.store(&[record("clientes", 0, Some(b"zz"), None)]).unwrap();
    let avsc = schema(r#"{"name": "id", "type": "string"}, {"name": "name", "type": "string"}"#);
    sink.learn("clientes", Unknown::Value(1), &avsc).unwrap();
    let value = |name: &str| {
        framed(1, |out| {
            out.string("ignored");
            out.string(name);
        })
    };
    let (ana, eva) = (value("Ana"), value("Eva"));
    let records = [
        record("clientes", 3, Some(b"a"), Some(&ana)),
        record("clientes", 5, Some(b"b"), Some(&ana)),
        record("clientes", 6, Some(b"b"), None),
        record("clientes", 7, Some(b"c"), Some(&ana)),
        record("clientes", 8, Some(b"c"), None),
        record("clientes", 9, Some(b"c"), Some(&eva)),
        record("clientes", 10, None, Some(&ana)),
        record("clientes", 11, Some(&[0xff]), Some(&ana)),
    ];
    sink.store(&records).unwrap();
    assert_eq!(
        db.text("SELECT string_agg(id || name, ',' ORDER BY id) FROM mis_clientes"),
        "aAna,cEva"
    );
    let dead = db.text(DEAD);
    assert!(
        dead.starts_with("10 missing_field") && dead.contains("\n11 malformed key: no UTF-8"),
        "{dead}"
    );
    assert_eq!(db.text("SELECT row(rows, dead, deleted) FROM sink_offsets"), "(4,2,3)");
    // Without delete.enabled it is a dead letter, and the row stays.
    let kept = toml.replace("delete.enabled = true\n", "");
    let mut sink = Sink::of_file(&db.url, &kept).unwrap().claiming(&["clientes"]);
    sink.store(&[record("clientes", 12, Some(b"a"), None)]).unwrap();
    assert!(
        db.text(DEAD).contains("12 null_value a record without a value; delete.enabled is off")
    );
    assert_eq!(db.text("SELECT count(*) FROM mis_clientes"), "2");
}

/// JSON under a declared schema, keyed by where it was read; and without any key.
#[test]
fn json_is_typed_by_its_declared_schema() {
    let Some(mut db) = Scratch::create() else { return };
    let folder = std::env::temp_dir().join(format!("caudal-sink-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("visita.avsc");
    let fields = r#"{"name": "n", "type": "int"}, {"name": "tags", "type": ["null",
        {"type": "array", "items": "string"}]}"#;
    std::fs::write(&path, schema(fields)).unwrap();
    let of = |topic: &str, more: &str| {
        format!(
            "[topics.{topic}]\nvalue.format = \"json\"\nvalue.schema = \"{}\"\n\
             auto.create = true\n{more}\n",
            path.display()
        )
    };
    let toml = of("visitas", "pk.mode = \"kafka\"") + &of("plain", "");
    let mut sink = Sink::of_file(&db.url, &toml).unwrap().claiming(&["visitas", "plain"]);
    let values =
        [&br#"{"n": 1, "tags": ["x"]}"#[..], br#"{"n": 1}"#, br#"{"n": "q"}"#, b"[", b"{}"];
    for topic in ["visitas", "plain"] {
        let records = (0..).zip(values).map(|(o, v)| record(topic, o, None, Some(v)));
        sink.store(&records.collect::<Vec<_>>()).unwrap();
    }
    assert_eq!(
        db.text("SELECT string_agg(visitas::text, ' ' ORDER BY __connect_offset) FROM visitas"),
        "(visitas,0,0,1,\"[\"\"x\"\"]\") (visitas,0,1,1,)"
    );
    assert_eq!(
        db.text("SELECT string_agg(plain::text, ' ' ORDER BY tags) FROM plain"),
        "(1,\"[\"\"x\"\"]\") (1,)"
    );
    assert_eq!(
        db.text("SELECT string_agg(reason, ' ' ORDER BY topic, \"offset\") FROM dead_letters"),
        "malformed malformed missing_field malformed malformed missing_field"
    );
    // Poison among rows without a key is isolated all the same.
    db.run("ALTER TABLE plain ADD CHECK (n < 100)");
    let (good, bad) = (br#"{"n": 2}"#, br#"{"n": 100}"#);
    let records = [
        record("plain", 5, None, Some(good)),
        record("plain", 6, None, Some(bad)),
        record("plain", 7, None, Some(good)),
    ];
    let stored = sink.store(&records).unwrap();
    assert_eq!((stored.rows["plain"], stored.dead["constraint"]), (2, 1));
    assert_eq!(db.count("plain"), 4);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A record of a schema that nobody knows is a dead letter, and the rest goes on.
#[test]
fn an_unknown_schema_is_a_dead_letter() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = Sink::of_file(&db.url, APPEND).unwrap().claiming(&["pedidos"]);
    sink.learn("pedidos", Unknown::Value(1), &schema(r#"{"name": "s", "type": "string"}"#))
        .unwrap();
    let (good, unknown) = (framed(1, |out| out.string("x")), framed(2, |out| out.string("x")));
    let cut = good[..6].to_vec();
    let records = [&good, &unknown, &b"{}".to_vec(), &cut, &good];
    let records = (0..).zip(records).map(|(o, v)| record("pedidos", o, None, Some(v)));
    sink.store(&records.collect::<Vec<_>>()).unwrap();
    assert_eq!(db.count("pedidos"), 2);
    let reasons = "SELECT string_agg(reason, ' ' ORDER BY \"offset\") FROM dead_letters";
    assert_eq!(db.text(reasons), "schema malformed malformed");
    assert!(db.text(DEAD).starts_with("1 schema schema id 2"), "{}", db.text(DEAD));
}
