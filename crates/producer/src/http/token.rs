//! Who may send: whoever knows the token.

use super::args::HttpArgs;
use anyhow::Result;
use caudal_service::exit::Usage;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use std::net::SocketAddr;

/// The token itself, for whoever keeps secrets in the environment.
const VARIABLE: &str = "CAUDAL_HTTP_TOKEN";
/// Shorter ones can be guessed.
const SHORTEST: usize = 16;

/// The token that a request must carry; only its SHA-256 is kept.
pub struct Token([u8; 32]);

impl Token {
    /// The token of the file, else of `CAUDAL_HTTP_TOKEN`; `None` where none is given and only this
    /// machine can reach `listen`.
    ///
    /// # Errors
    /// [`Usage`] when it is missing, unreadable or too short.
    pub fn read(args: &HttpArgs, listen: SocketAddr) -> Result<Option<Token>> {
        let from_file = args.http_token_file.as_ref().map(|path| {
            std::fs::read_to_string(path)
                .map_err(|e| Usage(format!("--http-token-file {}: {e}", path.display())))
        });
        let text = from_file.transpose()?.or_else(|| std::env::var(VARIABLE).ok());
        match text {
            Some(text) => Ok(Some(Token::of(text.lines().next().unwrap_or_default())?)),
            None if listen.ip().is_loopback() => Ok(None),
            None => Err(Usage(format!(
                "--listen {listen} can be reached from other machines: give a token with \
                 --http-token-file FILE or {VARIABLE}"
            ))
            .into()),
        }
    }

    /// That token.
    ///
    /// # Errors
    /// [`Usage`] when it has fewer than 16 characters, or others than visible ASCII.
    pub fn of(text: &str) -> Result<Token> {
        let text = text.trim();
        if text.len() < SHORTEST || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Usage(format!(
                "the token for HTTP needs at least {SHORTEST} visible ASCII characters and no \
                 blanks: openssl rand -hex 24 makes one"
            ))
            .into());
        }
        Ok(Token(digest(text.as_bytes())))
    }

    /// Whether a request carries it. Digests are compared, and all of them, so that the time that
    /// it takes says nothing of the token.
    #[must_use]
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(AUTHORIZATION) else { return false };
        let Some((scheme, token)) = value.as_bytes().split_at_checked(7) else { return false };
        let token = digest(token.trim_ascii());
        let differing = self.0.iter().zip(token).fold(0, |all, (a, b)| all | (a ^ b));
        scheme.eq_ignore_ascii_case(b"bearer ") && differing == 0
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn admitted(header: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, header.parse().unwrap());
        Token::of(TOKEN).unwrap().admits(&headers)
    }

    #[test]
    fn admits_its_bearer_and_nobody_else() {
        assert!(admitted(&format!("Bearer {TOKEN}")));
        assert!(admitted(&format!("bearer  {TOKEN}")));
        for wrong in ["Bearer", "Bearer ", "Bearer 0123456789abcdeF", "Basic 0123456789abcdef", ""]
        {
            assert!(!admitted(wrong), "{wrong}");
        }
        assert!(!admitted(TOKEN));
        assert!(!Token::of(TOKEN).unwrap().admits(&HeaderMap::new()));
    }

    #[test]
    fn a_short_token_is_refused_and_other_machines_need_one() {
        assert!(Token::of("short").is_err() && Token::of("0123456789 abcdef").is_err());
        let args = HttpArgs { listen: None, http_token_file: None };
        assert!(Token::read(&args, "0.0.0.0:1".parse().unwrap()).is_err());
        let file = std::env::temp_dir().join(format!("caudal-token-{}", std::process::id()));
        std::fs::write(&file, format!("{TOKEN}\nsecond line\n")).unwrap();
        let args = HttpArgs { http_token_file: Some(file.clone()), ..args };
        assert!(Token::read(&args, "0.0.0.0:1".parse().unwrap()).unwrap().is_some());
        std::fs::remove_file(file).unwrap();
    }
}
