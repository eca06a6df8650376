//! Words by which columns tell what they are, in the languages in which such files come.

/// A meaning and the words that tell it, the surest first.
pub(super) type Words = &'static [&'static str];

pub(super) const ID: Words = &[
    "transaction_id",
    "transactionid",
    "transaction id",
    "trans_id",
    "txn_id",
    "txid",
    "uuid",
    "event_id",
    "event.id",
    "transaction no",
    "transaction number",
    "trans no",
    "reference no",
    "transaction ref",
    "id operacion",
    "id",
    "reference",
    "referencia",
    "ref",
];
pub(super) const ACCOUNT: Words = &[
    "account_id",
    "account",
    "iban",
    "cuenta",
    "konto",
    "compte",
    "card number",
    "customerid",
    "customer id",
    "customer.id",
    "customer",
    "client",
    "cliente",
    "user",
    "usuario",
    "card",
    "tarjeta",
    "pan",
    "kunde",
    "member",
    "payer",
    "card holder",
];
pub(super) const MERCHANT: Words = &[
    "merchant_id",
    "merchant name",
    "merchant",
    "comercio",
    "supplier",
    "vendor",
    "proveedor",
    "beneficiary",
    "beneficiario",
    "payee",
    "counterparty",
    "empfänger",
    "shop",
    "store",
    "tienda",
    "stockcode",
    "sku",
    "product",
    "item",
];
pub(super) const AMOUNT: Words = &[
    "amount",
    "amt",
    "importe",
    "monto",
    "betrag",
    "montant",
    "net amount",
    "gross",
    "value",
    "valor",
    "total",
    "sum",
    "price",
    "precio",
    "cents",
    "minor",
];
/// Amounts that count the smallest unit of their currency.
pub(super) const MINOR: Words = &["minor", "minor units", "cents", "céntimos", "pence"];
pub(super) const DEBIT: Words =
    &["debit", "paid out", "money out", "withdrawal", "cargo", "adeudo", "soll", "débit"];
pub(super) const CREDIT: Words =
    &["credit", "paid in", "money in", "deposit", "abono", "haben", "crédit"];
pub(super) const QUANTITY: Words = &["quantity", "qty", "cantidad", "menge", "units"];
pub(super) const UNIT_PRICE: Words =
    &["unitprice", "unit price", "unit_price", "price", "precio", "preis"];
pub(super) const CURRENCY: Words = &["currency", "ccy", "moneda", "divisa", "währung", "devise"];
pub(super) const COUNTRY: Words = &["country", "país", "pais", "land", "pays"];
pub(super) const DESCRIPTION: Words = &[
    "description",
    "descripcion",
    "descripción",
    "concepto",
    "narrative",
    "details",
    "memo",
    "purpose",
    "verwendungszweck",
    "libellé",
    "summary",
    "text",
    "note",
];
pub(super) const TIME: Words = &[
    "event_time",
    "timestamp",
    "datetime",
    "date time",
    "created",
    "occurred",
    "invoicedate",
    "transaction date",
    "trans date",
    "posting date",
    "booking date",
    "date",
    "fecha",
    "datum",
    "buchungstag",
    "time",
    "hora",
    "ts",
    "at",
];

/// Words of a column that say the sign: money out, money in.
pub(super) const SIGNS: &[(&str, &str)] = &[
    ("DEBIT", "CREDIT"),
    ("D", "C"),
    ("DR", "CR"),
    ("DBIT", "CRDT"),
    ("S", "H"),
    ("SOLL", "HABEN"),
    ("OUT", "IN"),
    ("WITHDRAWAL", "DEPOSIT"),
    ("PAYMENT", "REFUND"),
    ("PURCHASE", "REFUND"),
    ("SALE", "REFUND"),
    ("CARGO", "ABONO"),
    ("GASTO", "INGRESO"),
    ("VYDAJ", "PRIJEM"),
    ("-", "+"),
];

/// Values by which files say that there is none.
pub(super) const NULLS: &[&str] =
    &["NULL", "null", "N/A", "n/a", "NA", "None", "none", "nan", "NaN", "\\N", "-", "--"];

/// Symbols of money and the currency that they most often mean.
pub(super) const SYMBOLS: &[(&str, &str)] = &[
    ("€", "EUR"),
    ("£", "GBP"),
    ("$", "USD"),
    ("¥", "JPY"),
    ("EUR", "EUR"),
    ("GBP", "GBP"),
    ("USD", "USD"),
    ("CHF", "CHF"),
    ("zł", "PLN"),
    ("kr", "SEK"),
    ("R$", "BRL"),
    ("₹", "INR"),
];

/// Ways to write times, the surest first.
pub(super) const TIMES: &[&str] = &[
    "rfc3339",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
    "%m/%d/%Y",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%d-%m-%Y %H:%M:%S",
    "%d-%m-%Y %H:%M",
    "%d-%m-%Y",
    "%d/%m/%y %H:%M",
    "%d/%m/%y",
    "%m/%d/%y",
    "%d.%m.%y",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%d %b %Y",
    "%d %B %Y",
    "%b %d, %Y",
    "%Y%m%d%H%M%S",
    "%Y%m%d",
    "%y%m%d",
    "unix_seconds",
    "unix_millis",
    "unix_micros",
    "unix_nanos",
];
