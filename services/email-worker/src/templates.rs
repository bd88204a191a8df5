//! The texts of the mails: compiled in, checked at start, rendered with a bound on work.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value};

/// Steps of the template engine for one text. The longest, an order of 50 lines, takes about 1,500.
const FUEL: u64 = 5_000;

/// `<name>.subject`, `<name>.html` and `<name>.txt`.
const TEMPLATES: [(&str, &str); 21] = [
    ("report-ready.subject", include_str!("../templates/report-ready.subject")),
    ("report-ready.html", include_str!("../templates/report-ready.html")),
    ("report-ready.txt", include_str!("../templates/report-ready.txt")),
    ("welcome.subject", include_str!("../templates/welcome.subject")),
    ("welcome.html", include_str!("../templates/welcome.html")),
    ("welcome.txt", include_str!("../templates/welcome.txt")),
    ("address-taken.subject", include_str!("../templates/address-taken.subject")),
    ("address-taken.html", include_str!("../templates/address-taken.html")),
    ("address-taken.txt", include_str!("../templates/address-taken.txt")),
    ("order-placed.subject", include_str!("../templates/order-placed.subject")),
    ("order-placed.html", include_str!("../templates/order-placed.html")),
    ("order-placed.txt", include_str!("../templates/order-placed.txt")),
    ("order-refused.subject", include_str!("../templates/order-refused.subject")),
    ("order-refused.html", include_str!("../templates/order-refused.html")),
    ("order-refused.txt", include_str!("../templates/order-refused.txt")),
    ("video-ready.subject", include_str!("../templates/video-ready.subject")),
    ("video-ready.html", include_str!("../templates/video-ready.html")),
    ("video-ready.txt", include_str!("../templates/video-ready.txt")),
    ("video-refused.subject", include_str!("../templates/video-refused.subject")),
    ("video-refused.html", include_str!("../templates/video-refused.html")),
    ("video-refused.txt", include_str!("../templates/video-refused.txt")),
];

/// The three texts of one mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// The subject.
    pub subject: String,
    /// The HTML part.
    pub html: String,
    /// The same in plain text.
    pub text: String,
}

/// The templates there are.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
}

impl Templates {
    /// Reads the templates.
    ///
    /// # Errors
    /// One of them is no template.
    pub fn new() -> Result<Self, minijinja::Error> {
        // Values are escaped in templates named `.html`, and only there.
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        for (name, text) in TEMPLATES {
            environment.add_template(name, text)?;
        }
        Ok(Self { environment })
    }

    /// Fills the three templates called `name`.
    ///
    /// # Errors
    /// A value is missing, or the work has no end in sight.
    pub fn render(&self, name: &str, values: Value) -> Result<Texts, minijinja::Error> {
        let render = |part: &str| self.environment.get_template(&format!("{name}.{part}"))?.render(&values);
        Ok(Texts { subject: render("subject")?, html: render("html")?, text: render("txt")? })
    }
}

#[cfg(test)]
mod tests {
    use minijinja::{ErrorKind, context};

    use super::Templates;

    fn fails(source: &'static str) -> ErrorKind {
        let mut templates = Templates::new().unwrap();
        for part in ["subject", "html", "txt"] {
            templates.environment.add_template_owned(format!("odd.{part}"), source).unwrap();
        }
        templates.render("odd", context! { name => "Alice" }).unwrap_err().kind()
    }

    #[test]
    fn a_value_that_is_missing_is_an_error_and_no_blank() {
        assert_eq!(fails("Hello {{ nmae }}"), ErrorKind::UndefinedError);
    }

    #[test]
    fn a_template_without_end_runs_out_of_fuel() {
        assert_eq!(fails("{% for a in range(9999) %}{{ a }}{% endfor %}"), ErrorKind::OutOfFuel);
    }
}
