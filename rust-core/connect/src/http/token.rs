//! The token that requests must carry (RFC 6750).

use std::fs;

use hyper::{HeaderMap, header::AUTHORIZATION};
use subtle::ConstantTimeEq;

use super::TokenPlace;
use crate::{ConnectError, Secret};

/// A token that is there and can be sent.
pub struct Token(Secret);

impl Token {
    /// Reads it. Refuses one that no header could carry.
    pub fn read(place: &TokenPlace) -> Result<Token, ConnectError> {
        let (text, value) = match place {
            TokenPlace::Value(secret) => (secret.reveal().to_owned(), "no token".to_owned()),
            TokenPlace::File(path) => {
                let failed = |source| ConnectError::Open { path: path.clone(), source };
                (fs::read_to_string(path).map_err(failed)?, format!("what is in {}", path.display()))
            }
        };
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let rule = "it must be one or more visible ASCII characters";
            return Err(ConnectError::Spec { option: "token", value, rule });
        }
        Ok(Token(Secret::new(text)))
    }

    /// What the header of a request says that shows it.
    pub fn shown(&self) -> Secret {
        Secret::new(format!("Bearer {}", self.0.reveal()))
    }

    /// Whether a request carries it. How long this takes says nothing about the token but its length.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let Some(sent) = headers.get(AUTHORIZATION).map(|value| value.as_bytes()) else { return false };
        let Some((scheme, token)) = sent.split_at_checked(SCHEME.len()) else { return false };
        scheme.eq_ignore_ascii_case(SCHEME) && token.ct_eq(self.0.reveal().as_bytes()).into()
    }
}

const SCHEME: &[u8] = b"Bearer ";
