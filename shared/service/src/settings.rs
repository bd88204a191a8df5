//! Settings: documented defaults compiled in, a file if one is named, the environment over both.

use anyhow::{Context, bail};
use config::{Config, Environment, File, FileFormat};
use serde::de::DeserializeOwned;

/// Prefix of every variable: `POSTROOM__SMTP__URL` sets `url` in the section `smtp`.
const PREFIX: &str = "POSTROOM";
/// Names an optional TOML file that is laid over the defaults.
const FILE_VARIABLE: &str = "POSTROOM_SETTINGS_FILE";

/// Reads the settings of a service: `defaults` (TOML text), then the file named by `POSTROOM_SETTINGS_FILE`, then
/// variables of the form `POSTROOM__SECTION__KEY`.
///
/// # Errors
/// A missing file, a missing value, a value of the wrong type, or a key that `T` does not know; each error says which
/// section and key, and how the variable is called.
pub fn load<T: DeserializeOwned>(defaults: &str) -> anyhow::Result<T> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    let file = std::env::var(FILE_VARIABLE).ok();
    load_from(defaults, file.as_deref(), std::env::vars().collect())
}

fn load_from<T: DeserializeOwned>(
    defaults: &str,
    file: Option<&str>,
    environment: std::collections::HashMap<String, String>,
) -> anyhow::Result<T> {
    let mut builder = Config::builder().add_source(File::from_str(defaults, FileFormat::Toml));
    if let Some(path) = file {
        builder = builder.add_source(File::new(path, FileFormat::Toml).required(true));
    }
    // No `try_parsing`: it would turn a secret such as "1e5" into a number. Values are parsed where a field asks for it.
    let variables = Environment::with_prefix(PREFIX).prefix_separator("__").separator("__").source(Some(environment));
    let config = builder.add_source(variables).build().context("read the settings")?;
    match serde_path_to_error::deserialize(config) {
        Ok(settings) => Ok(settings),
        Err(error) => {
            let path = error.path().to_string();
            let error = error.into_inner();
            let section =
                if path == "." { String::new() } else { format!("{}__", path.replace('.', "__").to_uppercase()) };
            bail!("settings, at `{path}`: {error} (in the environment: {PREFIX}__{section}…)")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::load_from;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        smtp: Smtp,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Smtp {
        url: String,
        port: u16,
    }

    const DEFAULTS: &str = "[smtp]\nurl = \"smtp://localhost\"\nport = 25\n";

    fn load(pairs: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<HashMap<_, _>>();
        load_from(DEFAULTS, None, environment)
    }

    #[test]
    fn the_environment_lies_over_the_defaults() {
        let settings = load(&[("POSTROOM__SMTP__PORT", "1025")]).unwrap();
        assert_eq!((settings.smtp.url.as_str(), settings.smtp.port), ("smtp://localhost", 1025));
    }

    #[test]
    fn a_value_that_looks_like_a_number_stays_the_text_it_is() {
        assert_eq!(load(&[("POSTROOM__SMTP__URL", "1e5")]).unwrap().smtp.url, "1e5");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = load(&[("POSTROOM__SMTP__PROT", "1")]).unwrap_err().to_string();
        assert!(error.contains("prot") && error.contains("POSTROOM__SMTP__"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_an_error_that_names_the_variable() {
        let error = load(&[("POSTROOM__SMTP__PORT", "many")]).unwrap_err().to_string();
        assert!(error.contains("POSTROOM__SMTP__PORT"), "{error}");
    }
}
