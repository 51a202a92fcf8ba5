//! The settings with which the site's tokens are verified: secret, public keys and issuers.

use super::jwt_issuer::Issuer;
use super::public_keys::{self, PublicKey};
use super::secrets::{self, JwtKeys, SecretSources};
use super::{Config, TokensWithoutExp, log_warnings};

/// The option that holds keys of the site's tokens, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlace {
    /// The flag or the variable; the systemd credential for one.
    pub option: String,
    /// The file, if there is one.
    pub file: Option<String>,
    /// Whether it holds public keys instead of secrets.
    pub is_public: bool,
}

/// Public keys, and warnings for the operator.
pub type PublicKeys = (Vec<PublicKey>, Vec<String>);

impl Config {
    /// Reads the keys of the site's tokens: the JWT secrets from the file, the variable or the
    /// credential, and the public keys; `None` if none is set. Logs warnings. The secrets are not a
    /// field of `Config`, because `Debug` would print them.
    ///
    /// # Errors
    ///
    /// A message that names the source and what is wrong, without the secret.
    pub fn jwt_keys(&self) -> Result<Option<JwtKeys>, String> {
        Ok(self.jwt_keys_with_warnings()?.map(log_warnings))
    }

    /// Like [`Config::jwt_keys`], but returns the warnings instead of logging them.
    ///
    /// # Errors
    ///
    /// As [`Config::jwt_keys`].
    pub fn jwt_keys_with_warnings(&self) -> Result<Option<(JwtKeys, Vec<String>)>, String> {
        let (secret, public) =
            (self.jwt_secret_with_warnings()?, self.public_keys_with_warnings()?);
        if secret.is_none() && public.is_none() {
            return Ok(None);
        }
        let (keys, mut warnings) = secret.unwrap_or_default();
        let (public, others) = public.unwrap_or_default();
        warnings.extend(others);
        Ok(Some((keys.with_public(public), warnings)))
    }

    /// Reads the JWT secrets alone; also returns warnings.
    ///
    /// # Errors
    ///
    /// As [`Config::jwt_keys`].
    pub fn jwt_secret_with_warnings(&self) -> Result<Option<(JwtKeys, Vec<String>)>, String> {
        let variable = self.variable(secrets::JWT.variable)?;
        let file = self.jwt_secret_file.as_deref();
        let sources = SecretSources::from_process(&secrets::JWT, file, variable);
        let Some(read) = sources.read()? else { return Ok(None) };
        self.require_site("a JWT secret")?;
        Ok(Some(read))
    }

    /// Reads the public keys alone; also returns warnings.
    ///
    /// # Errors
    ///
    /// As [`Config::jwt_keys`].
    pub fn public_keys_with_warnings(&self) -> Result<Option<PublicKeys>, String> {
        let Some(path) = &self.jwt_key_file else { return Ok(None) };
        let read = public_keys::read(path)?;
        self.require_site(public_keys::FLAG)?;
        Ok(Some(read))
    }

    /// Returns the options that these keys come from.
    pub fn jwt_key_places(&self, keys: &JwtKeys) -> Vec<KeyPlace> {
        let shown = |path: &std::path::PathBuf| path.display().to_string();
        let names = &secrets::JWT;
        let mut places = Vec::new();
        if keys.secrets().next().is_some() {
            let is_variable = || self.variable(names.variable).is_ok_and(|it| it.is_some());
            let option = match &self.jwt_secret_file {
                Some(_) => names.flag.to_owned(),
                None if is_variable() => names.variable.to_owned(),
                None => format!("the credential {}", names.credential),
            };
            let file = self.jwt_secret_file.as_ref().map(shown);
            places.push(KeyPlace { option, file, is_public: false });
        }
        if let Some(path) = self.jwt_key_file.as_ref() {
            let (option, file) = (public_keys::FLAG.to_owned(), Some(shown(path)));
            places.push(KeyPlace { option, file, is_public: true });
        }
        places
    }

    fn require_site(&self, what: &str) -> Result<(), String> {
        match self.buddyboss_url.is_some() {
            true => Ok(()),
            false => Err(format!(
                "{what} is set and --buddyboss-url is not: set it to the address of the site that \
                 issues the tokens"
            )),
        }
    }

    /// Returns the issuers whose tokens are accepted: those that are set, or the site itself.
    pub fn jwt_issuers(&self) -> Vec<Issuer> {
        match &self.jwt_issuer[..] {
            [] => self.buddyboss_url.iter().map(Issuer::from).collect(),
            lists => lists.iter().flat_map(|list| list.0.iter().cloned()).collect(),
        }
    }

    /// Whether tokens without an expiry are refused.
    pub fn requires_jwt_expiry(&self) -> bool {
        self.jwt_without_exp == TokensWithoutExp::Refuse
    }
}
