//! Card numbers never leave the producer: an account that contains one goes on as a token, texts
//! show its last four digits. Every Transaction passes through here before it is sent
//! ([`Envelope::transaction`](crate::source::envelope::Envelope::transaction)).
//!
//! A token is the same for the same card under the same key, so that accounts keep their history.
//! Without the key nobody can find the card by trying all of them, as a plain hash would allow.

use crate::source::records::hex;
use anyhow::Result;
use caudal_core::mask::{SHOWN, mask_card_numbers, replace_card_numbers};
use caudal_core::reject::{Reason, Rejection};
use caudal_core::transaction::Transaction;
use caudal_core::validate::MAX_NAME;
use caudal_service::exit::Usage;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::ffi::OsString;
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
/// Bytes of an account that fits whatever becomes of it: a token has 42 characters in the place of
/// at least 13 bytes, and of what is shorter than 39 bytes no third one can be made.
const NEVER_TOO_LONG: usize = 38;

/// What becomes of card numbers, and the key of tokens.
#[derive(Debug, Clone, clap::Args)]
pub struct CardArgs {
    /// What becomes of card numbers (13 to 19 digits that pass the Luhn check): `tokenise` sends a
    /// keyed token in the place of an account that is one, and masks them in descriptions and
    /// attributes; `keep` sends them as they are. Lines that cannot be mapped are masked either way
    #[arg(long, env = "CAUDAL_CARD_NUMBERS", value_enum, default_value = "tokenise")]
    pub card_numbers: CardNumbers,
    /// File with the key of tokens, at least 16 bytes. Without one, CAUDAL_CARD_KEY gives the key
    /// itself [default: card-key in --home, made at the first start]
    #[arg(long, env = "CAUDAL_CARD_KEY_FILE", value_name = "FILE")]
    pub card_key_file: Option<PathBuf>,
    /// Folder of local state: the card key
    #[arg(long, env = "CAUDAL_HOME", value_name = "DIR", default_value = ".caudal")]
    pub home: PathBuf,
}

/// What becomes of card numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CardNumbers {
    /// Accounts become tokens, texts are masked.
    #[default]
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

    /// Under the key of the file, else of the environment (`CAUDAL_CARD_KEY`), else of `card-key` in
    /// the folder of local state, which is made where it does not exist: random, readable by its
    /// owner alone.
    ///
    /// # Errors
    /// [`Usage`] when a key cannot be read or made, or is too short.
    pub fn load(args: &CardArgs) -> Result<Cards> {
        Cards::load_with(args, std::env::var_os(VARIABLE))
    }

    fn load_with(args: &CardArgs, variable: Option<OsString>) -> Result<Cards> {
        let key = match (&args.card_key_file, variable) {
            (Some(path), _) => read_key(path)?,
            (None, Some(key)) => key.into_encoded_bytes(),
            (None, None) => read_or_make_key(&args.home)?,
        };
        Cards::under(key.trim_ascii(), args.card_numbers == CardNumbers::Tokenise)
    }

    /// Says whether the account is short enough once its card numbers are tokens, which are longer.
    ///
    /// # Errors
    /// A rejection `too_large`, with the money, when it is not.
    pub fn check_account(&self, t: &Transaction<'_>) -> Result<(), Rejection> {
        if !self.tokenise || t.account_id.len() <= NEVER_TOO_LONG {
            return Ok(());
        }
        if self.account(t).chars().count() <= MAX_NAME {
            return Ok(());
        }
        let message = format!(
            "account_id contains card numbers, and has more than {MAX_NAME} characters with tokens \
             in their place"
        );
        Err(Rejection { money: t.money(), ..Rejection::new(Reason::TooLarge, message) })
    }

    fn account<'t>(&self, t: &'t Transaction<'_>) -> Cow<'t, str> {
        replace_card_numbers(&t.account_id, |number, out| out.push_str(&self.token(number)))
    }

    /// The transaction without card numbers; `None` where it has none. Its account may have become
    /// too long, unless [`Cards::check_account`] was asked.
    #[must_use]
    pub fn without<'t>(&self, t: &'t Transaction<'_>) -> Option<Transaction<'t>> {
        if !self.tokenise {
            return None;
        }
        let account_id = self.account(t);
        let description = t.description.as_deref().map(mask_card_numbers);
        // Most have none: only of one that has are the attributes put together again.
        let changed = matches!(account_id, Cow::Owned(_))
            || matches!(description, Some(Cow::Owned(_)))
            || t.attributes.iter().any(|(_, value)| has_card_number(value));
        let masked = |(name, value): &'t (Cow<'_, str>, Cow<'_, str>)| {
            (Cow::Borrowed(name.as_ref()), mask_card_numbers(value))
        };
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
            attributes: t.attributes.iter().map(masked).collect(),
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

    /// Both hashes of a line that comes in pieces, of none of them yet.
    #[must_use]
    pub fn whole(&self) -> WholeHash {
        WholeHash::under(&self.key)
    }

    fn keyed(&self, bytes: &[u8]) -> [u8; 32] {
        let mut mac = mac(&self.key);
        mac.update(bytes);
        mac.finalize().into_bytes().into()
    }
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    // A key of any length is taken: this never panics.
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
    Hmac::<Sha256>::new_from_slice(key).expect("a key of any length")
}

/// The hashes of a line that is too large to be kept, while it passes.
#[derive(Clone)]
pub struct WholeHash {
    plain: Sha256,
    keyed: Hmac<Sha256>,
}

impl fmt::Debug for WholeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WholeHash").finish_non_exhaustive()
    }
}

impl WholeHash {
    /// Of no bytes yet, under a key of any length.
    #[must_use]
    pub fn under(key: &[u8]) -> WholeHash {
        WholeHash { plain: Sha256::new(), keyed: mac(key) }
    }

    /// The next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.plain.update(bytes);
        self.keyed.update(bytes);
    }

    /// The hashes of all pieces.
    #[must_use]
    pub fn finish(self) -> WholeDigest {
        let (plain, keyed) = (self.plain.finalize(), self.keyed.finalize().into_bytes());
        WholeDigest { plain: plain.into(), keyed: keyed.into() }
    }
}

/// The hashes of a whole line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholeDigest {
    /// SHA-256.
    pub plain: [u8; 32],
    /// HMAC-SHA-256 under the card key.
    pub keyed: [u8; 32],
}

fn has_card_number(text: &str) -> bool {
    matches!(mask_card_numbers(text), Cow::Owned(_))
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
    fn an_account_that_tokens_make_too_long_is_refused() {
        let card = "4111111111111111";
        for (beside, fits) in [(0, true), (128 - 42, true), (128 - 41, false), (112, false)] {
            let t = transaction(&format!("{card}{}", "é".repeat(beside)), "");
            let refused = cards().check_account(&t).err();
            assert_eq!(refused.is_none(), fits, "{beside}");
            if let Some(refused) = refused {
                assert_eq!((refused.reason, refused.money), (Reason::TooLarge, t.money()));
                assert!(!refused.message.contains("1111"));
            }
            assert_eq!(cards().without(&t).unwrap().account_id.chars().count(), beside + 42);
        }
        // The tokens of three just fit.
        let many = |n| transaction(&vec!["4222222222222"; n].join("/"), "");
        assert!(cards().check_account(&many(2)).is_ok());
        assert!(cards().check_account(&many(3)).is_ok());
        assert!(cards().check_account(&many(4)).is_err());
        let kept = Cards::under(b"0123456789abcdef", false).unwrap();
        assert!(kept.check_account(&many(9)).is_ok());
        assert!(cards().check_account(&transaction(&"x".repeat(128), "")).is_ok());
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
        let first = Cards::load_with(&args(None), None).unwrap();
        let again = Cards::load_with(&args(None), None).unwrap();
        assert_eq!(first.key, again.key);
        assert_eq!(first.key.len(), 2 * MADE);
        let mode = fs::metadata(home.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&home).unwrap().count(), 1);
        fs::write(home.join("short"), "secret").unwrap();
        let short = Cards::load(&args(Some(home.join("short")))).unwrap_err().to_string();
        assert!(short.contains("6 bytes") && !short.contains("secret"), "{short}");
        // A file that is named wins over the variable, and the variable over the folder.
        let variable = || Some(OsString::from("a key of the environment"));
        fs::write(home.join("named"), "the key of a file\n").unwrap();
        let named = Cards::load_with(&args(Some(home.join("named"))), variable()).unwrap();
        assert_eq!(&*named.key, b"the key of a file");
        let given = Cards::load_with(&args(None), variable()).unwrap();
        assert_eq!(&*given.key, b"a key of the environment");
        fs::remove_dir_all(&home).unwrap();
    }
}
