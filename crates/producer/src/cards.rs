//! Card numbers never leave the producer: an account that contains one goes on as a token, texts
//! show its last four digits. Every Transaction passes through here before it is sent
//! ([`Envelope::transaction`](crate::source::envelope::Envelope::transaction)).
//!
//! A token is the same for the same card under the same key, so that accounts keep their history.
//! Without the key nobody can find the card by trying all of them, as a plain hash would allow.

use crate::source::records::hex;
use anyhow::Result;
use caudal_core::mask::{SHOWN, mask_card_numbers, replace_card_numbers};
use caudal_core::transaction::Transaction;
use caudal_service::exit::Usage;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use std::borrow::Cow;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Environment variable with the key itself.
pub const VARIABLE: &str = "CAUDAL_CARD_KEY";
/// File of the key within the folder of local state, where neither a key nor a file is given.
pub const FILE: &str = "card-key";
/// Fewest bytes of a key.
const SHORTEST: usize = 16;
/// Random bytes of a key that we make.
const MADE: usize = 32;

/// What becomes of card numbers, and the key of tokens.
#[derive(Debug, Clone, clap::Args)]
pub struct CardArgs {
    /// What becomes of card numbers (13 to 19 digits that pass the Luhn check): `tokenise` sends a
    /// keyed token in the place of an account that is one, and masks them in descriptions and
    /// attributes; `keep` sends them as they are. Lines that cannot be mapped are masked either way
    #[arg(long, env = "CAUDAL_CARD_NUMBERS", value_enum, default_value = "tokenise")]
    pub card_numbers: CardNumbers,
    /// File with the key of tokens, at least 16 bytes; CAUDAL_CARD_KEY may hold the key itself
    /// [default: card-key in --home, made at the first start]
    #[arg(long, env = "CAUDAL_CARD_KEY_FILE", value_name = "FILE")]
    pub card_key_file: Option<PathBuf>,
    /// Folder of local state: the card key
    #[arg(long, env = "CAUDAL_HOME", value_name = "DIR", default_value = ".caudal")]
    pub home: PathBuf,
}

/// What becomes of card numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CardNumbers {
    /// Accounts become tokens, texts are masked.
    Tokenise,
    /// They are sent.
    Keep,
}

/// What is done with card numbers.
#[derive(Clone)]
pub struct Cards {
    key: Arc<[u8]>,
    tokenise: bool,
}

impl fmt::Debug for Cards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cards").field("tokenise", &self.tokenise).finish_non_exhaustive()
    }
}

impl Cards {
    /// Under a key of at least 16 bytes. With `tokenise` false, transactions go on as they are;
    /// lines that cannot be mapped are masked all the same.
    ///
    /// # Errors
    /// [`Usage`] when the key is too short.
    pub fn under(key: &[u8], tokenise: bool) -> Result<Cards> {
        if key.len() < SHORTEST {
            let message = format!("the card key has {} bytes; {SHORTEST} are needed", key.len());
            return Err(Usage(message).into());
        }
        Ok(Cards { key: key.into(), tokenise })
    }

    /// Under the key of the environment (`CAUDAL_CARD_KEY`), else of the file, else of `card-key` in
    /// the folder of local state, which is made where it does not exist: random, readable by its
    /// owner alone.
    ///
    /// # Errors
    /// [`Usage`] when a key cannot be read or made, or is too short.
    pub fn load(args: &CardArgs) -> Result<Cards> {
        let key = match (std::env::var_os(VARIABLE), &args.card_key_file) {
            (Some(key), _) => key.into_encoded_bytes(),
            (None, Some(path)) => read_key(path)?,
            (None, None) => read_or_make_key(&args.home)?,
        };
        Cards::under(key.trim_ascii(), args.card_numbers == CardNumbers::Tokenise)
    }

    /// The transaction without card numbers; `None` where it has none.
    #[must_use]
    pub fn without<'t>(&self, t: &'t Transaction<'_>) -> Option<Transaction<'t>> {
        if !self.tokenise {
            return None;
        }
        let account_id = replace_card_numbers(&t.account_id, |number, out| {
            out.push_str(&self.token(number));
        });
        let description = t.description.as_deref().map(mask_card_numbers);
        let masked = |text: &Option<Cow<'_, str>>| matches!(text, Some(Cow::Owned(_)));
        let attributes: Vec<(Cow<'_, str>, Cow<'_, str>)> = t
            .attributes
            .iter()
            .map(|(name, value)| (Cow::Borrowed(name.as_ref()), mask_card_numbers(value)))
            .collect();
        let changed = matches!(account_id, Cow::Owned(_))
            || masked(&description)
            || attributes.iter().any(|(_, value)| matches!(value, Cow::Owned(_)));
        changed.then(|| Transaction {
            transaction_id: Cow::Borrowed(t.transaction_id.as_ref()),
            source: Cow::Borrowed(t.source.as_ref()),
            source_seq: t.source_seq,
            account_id,
            merchant_id: Cow::Borrowed(t.merchant_id.as_ref()),
            amount: t.amount,
            scale_declared: t.scale_declared,
            currency: Cow::Borrowed(t.currency.as_ref()),
            kind: t.kind,
            country: t.country.as_deref().map(Cow::Borrowed),
            event_time: t.event_time,
            description,
            attributes,
        })
    }

    /// `card-<32 letters>-<last four digits>`: 128 bits of the HMAC of the digits alone, so that
    /// blanks make no difference, in letters, so that nobody takes it for a card number.
    fn token(&self, number: &str) -> String {
        let digits: String = number.chars().filter(char::is_ascii_digit).collect();
        let letter = |nibble: u8| char::from(b'a' + nibble);
        let bits = &self.keyed(digits.as_bytes())[..16];
        let letters: String =
            bits.iter().flat_map(|byte| [letter(byte >> 4), letter(byte & 15)]).collect();
        format!("card-{letters}-{}", &digits[digits.len() - SHOWN..])
    }

    /// HMAC-SHA-256 of some bytes, in hex.
    #[must_use]
    pub fn keyed_sha256(&self, bytes: &[u8]) -> String {
        hex(&self.keyed(bytes))
    }

    fn keyed(&self, bytes: &[u8]) -> [u8; 32] {
        // A key of any length is taken: this never panics.
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key of any length");
        mac.update(bytes);
        mac.finalize().into_bytes().into()
    }
}

fn read_key(path: &Path) -> Result<Vec<u8>> {
    let key = fs::read(path)
        .map_err(|e| Usage(format!("cannot read the card key {}: {e}", path.display())))?;
    let mode = fs::metadata(path).map_or(0, |m| m.permissions().mode());
    if mode & 0o077 != 0 {
        let path = path.display();
        tracing::warn!("others may read the card key {path}; chmod 600 {path}");
    }
    Ok(key)
}

fn read_or_make_key(home: &Path) -> Result<Vec<u8>> {
    let path = home.join(FILE);
    if path.exists() {
        return read_key(&path);
    }
    let why = |e: std::io::Error| {
        let path = path.display();
        Usage(format!("cannot make the card key {path}: {e}; --card-key-file names another"))
    };
    fs::create_dir_all(home).map_err(why)?;
    let mut random = [0; MADE];
    fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut random)).map_err(why)?;
    // Written whole under another name first: nobody ever reads half a key, and of two producers
    // that start together both take the key of the one that linked first.
    let draft = home.join(format!("{FILE}.{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .map_err(why)?;
    file.write_all(hex(&random).as_bytes()).and_then(|()| file.sync_all()).map_err(why)?;
    let linked = fs::hard_link(&draft, &path);
    fs::remove_file(&draft).map_err(why)?;
    match linked {
        Ok(()) => {
            let path = path.display();
            tracing::info!("made the card key {path}: keep it, tokens of cards depend on it");
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(why(e).into()),
    }
    read_key(&path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_core::json::read_transaction;

    fn cards() -> Cards {
        Cards::under(b"0123456789abcdef", true).unwrap()
    }

    fn transaction(account: &str, rest: &str) -> Transaction<'static> {
        let text = format!(
            r#"{{"transaction_id":"t","account_id":"{account}","merchant_id":"4111111111111111",
            "amount":"1","currency":"EUR","kind":"PURCHASE","event_time":"2026-01-31T12:00:00Z"{rest}}}"#
        );
        read_transaction(text.as_bytes(), "s", 1).unwrap().into_owned()
    }

    #[test]
    fn an_account_that_is_a_card_becomes_a_token() {
        let token = |account| {
            let t = transaction(account, "");
            cards().without(&t).map(|t| t.account_id.into_owned())
        };
        let plain = token("4111111111111111").unwrap();
        assert!(plain.starts_with("card-") && plain.ends_with("-1111") && plain.len() == 42);
        assert_eq!(mask_card_numbers(&plain), plain);
        assert_eq!(token("4111 1111-1111 1111").as_ref(), Some(&plain));
        assert_eq!(token("ES/4111111111111111"), Some(format!("ES/{plain}")));
        assert_ne!(token("5500005555555559"), Some(plain.clone()));
        assert_eq!(token("4111111111111112"), None);
        let other = Cards::under(b"another key of cards", true).unwrap();
        let t = transaction("4111111111111111", "");
        assert_ne!(other.without(&t).unwrap().account_id, plain);
    }

    #[test]
    fn texts_are_masked_and_nothing_else_changes() {
        let t = transaction(
            "a",
            r#","description":"paid with 4111111111111111","ref":"5500005555555559","x":"y""#,
        );
        let without = cards().without(&t).unwrap();
        assert_eq!(without.description.as_deref(), Some("paid with ************1111"));
        let texts: Vec<_> = without.attributes.iter().map(|(_, v)| v.as_ref()).collect();
        assert_eq!(texts, ["************5559", "y"]);
        // A merchant is no card holder: nineteen digits stay what they are.
        assert_eq!(without.merchant_id, t.merchant_id);
        assert_eq!(cards().without(&transaction("a", "")), None);
        let kept = Cards::under(b"0123456789abcdef", false).unwrap();
        assert_eq!(kept.without(&t), None);
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let cards = Cards::under(&[0x0b; 20], true).unwrap();
        let expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        assert_eq!(cards.keyed_sha256(b"Hi There"), expected);
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let home = std::env::temp_dir().join(format!("caudal-card-key-{}", std::process::id()));
        let args = |file| CardArgs {
            card_numbers: CardNumbers::Tokenise,
            card_key_file: file,
            home: home.clone(),
        };
        let first = Cards::load(&args(None)).unwrap();
        let again = Cards::load(&args(None)).unwrap();
        assert_eq!(first.key, again.key);
        assert_eq!(first.key.len(), 2 * MADE);
        let mode = fs::metadata(home.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&home).unwrap().count(), 1);
        fs::write(home.join("short"), "secret").unwrap();
        let short = Cards::load(&args(Some(home.join("short")))).unwrap_err().to_string();
        assert!(short.contains("6 bytes") && !short.contains("secret"), "{short}");
        fs::remove_dir_all(&home).unwrap();
    }
}
