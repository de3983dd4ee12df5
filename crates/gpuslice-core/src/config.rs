//! The configuration: `/etc/gpuslice/gpuslice.toml` and `conf.d/*.toml`, read in that order and by name. What is
//! not understood is refused with file, line and key; nothing of a broken configuration takes effect.

use crate::ids::{ParseIdError, PciAddress, ProfileName};
use crate::layout::{Layout, Match, Rule, VfCount, Wipe, by_slot};
use crate::mode::{Mode, Modes};
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Most mediated devices of one profile that can be parked on a device: they are to be picked from by eye.
const MOST_PARKED: u32 = 16;

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// How new mdevs are spread over parents.
    pub placement: Strategy,
    /// What becomes of a GPU that the kernel's log says has failed.
    pub on_error: OnError,
    /// The `[[gpu]]` tables in order; for each device the first that matches counts.
    pub rules: Vec<Rule>,
}

impl Config {
    /// Whether a rule asks for a slot.
    pub fn by_slot(&self) -> bool {
        by_slot(&self.rules)
    }
}

/// What is done about a GPU that has failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// It gets no new VMs until a person has looked.
    #[default]
    Cordon,
    /// It is shown.
    Warn,
}

impl OnError {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cordon => "cordon",
            Self::Warn => "warn",
        }
    }
}

/// Which of several parents gets the next slice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The fullest that still fits, so that others stay free for large profiles.
    #[default]
    Pack,
    /// The emptiest, so that VMs share a device with few others.
    Spread,
}

impl Strategy {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Spread => "spread",
        }
    }
}

/// A mistake in a configuration file, or why one cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// File name as given.
    pub file: String,
    /// None where it is the whole file's.
    pub place: Option<Place>,
    /// What is wrong, with the key's name.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, place, message } = self;
        match place {
            Some(Place { line, column }) => write!(f, "{file}:{line}:{column}: {message}"),
            None => write!(f, "{file}: {message}"),
        }
    }
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// 1-based.
    pub line: usize,
    /// 1-based, in characters.
    pub column: usize,
}

impl Place {
    /// Of what follows the beginning of a text.
    #[must_use]
    pub fn after(before: &str) -> Self {
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { line, column }
    }
}

impl std::error::Error for ConfigError {}

/// Reads all files of a configuration.
///
/// # Errors
/// Every mistake of every file, not only the first.
pub fn parse(files: &[(String, String)]) -> Result<Config, Vec<ConfigError>> {
    let mut config = Config::default();
    let mut errors = Vec::new();
    for (file, text) in files {
        let mut reader = Reader { file, text, errors: &mut errors };
        match DeTable::parse(text) {
            Ok(table) => reader.top(table.get_ref(), &mut config),
            Err(error) => {
                let at = error.span().map_or(0, |s| s.start);
                reader.fail(at, error.message().trim().replace('\n', ", "));
            }
        }
    }
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    errors: &'a mut Vec<ConfigError>,
}

type Value<'i> = Spanned<DeValue<'i>>;

impl Reader<'_> {
    fn fail(&mut self, offset: usize, message: String) {
        let place = Some(self.place(offset));
        self.errors.push(ConfigError { file: self.file.to_owned(), place, message });
    }

    fn place(&self, offset: usize) -> Place {
        Place::after(self.text.get(..offset).unwrap_or(self.text))
    }

    /// Calls `each` with every known key and refuses the others, naming the nearest.
    fn keys<'i>(
        &mut self,
        table: &DeTable<'i>,
        known: &[&str],
        mut each: impl FnMut(&mut Self, &str, &Value<'i>),
    ) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                each(self, name, value);
                continue;
            }
            let nearest = known
                .iter()
                .map(|k| (strsim::damerau_levenshtein(k, name), *k))
                .min()
                .filter(|(distance, k)| *distance <= 1 + k.len() / 3);
            let advice = match nearest {
                Some((_, k)) => format!("did you mean `{k}`?"),
                None => format!("known here: {}", known.join(", ")),
            };
            self.fail(key.span().start, format!("unknown key `{name}`; {advice}"));
        }
    }

    fn top(&mut self, table: &DeTable<'_>, config: &mut Config) {
        self.keys(table, &["placement", "on-error", "gpu"], |this, key, value| match key {
            "placement" => match value.get_ref().as_str() {
                Some("pack") => config.placement = Strategy::Pack,
                Some("spread") => config.placement = Strategy::Spread,
                _ => this
                    .fail(value.span().start, "`placement` must be \"pack\" or \"spread\"".into()),
            },
            "on-error" => match value.get_ref().as_str() {
                Some("cordon") => config.on_error = OnError::Cordon,
                Some("warn") => config.on_error = OnError::Warn,
                _ => this
                    .fail(value.span().start, "`on-error` must be \"cordon\" or \"warn\"".into()),
            },
            _ => match value.get_ref().as_array() {
                Some(list) => list.iter().for_each(|entry| this.gpu(entry, &mut config.rules)),
                None => this.fail(value.span().start, "`gpu` must be written as [[gpu]]".into()),
            },
        });
    }

    fn gpu(&mut self, entry: &Value<'_>, rules: &mut Vec<Rule>) {
        let at = entry.span().start;
        let Some(table) = entry.get_ref().as_table() else {
            return self.fail(at, "`gpu` must be written as [[gpu]]".into());
        };
        let (mut matches, mut layout) = (None, None);
        let before = self.errors.len();
        self.keys(table, &["match", "layout"], |this, key, value| {
            let Some(inner) = value.get_ref().as_table() else {
                return this.fail(value.span().start, format!("`{key}` must be a table: {{ … }}"));
            };
            match key {
                "match" => matches = this.matches(inner, value.span().start),
                _ => layout = this.layout(inner, value.span().start),
            }
        });
        match (matches, layout) {
            (Some(matches), Some(layout)) => {
                let origin = format!("{}:{}", self.file, self.place(at).line);
                rules.push(Rule { matches, layout, origin });
            }
            // A broken half has been named already.
            _ if self.errors.len() > before => {}
            (None, _) => self.fail(at, "a [[gpu]] needs `match`".into()),
            (_, None) => self.fail(at, "a [[gpu]] needs `layout`".into()),
        }
    }

    fn matches(&mut self, table: &DeTable<'_>, at: usize) -> Option<Match> {
        let mut matches = Match::default();
        let before = self.errors.len();
        self.keys(
            table,
            &["address", "vendor-device", "model", "driver", "serial", "slot"],
            |this, key, value| {
                let Some(text) = value.get_ref().as_str() else {
                    return this
                        .fail(value.span().start, format!("`{key}` must be a text in quotes"));
                };
                let good = match key {
                    "address" => {
                        matches.address = text.parse::<PciAddress>().ok();
                        matches.address.is_some()
                    }
                    "vendor-device" => {
                        matches.vendor_device = parse_ids(text);
                        matches.vendor_device.is_some()
                    }
                    "model" => {
                        matches.model = is_module_name(text).then(|| text.to_ascii_lowercase());
                        matches.model.is_some()
                    }
                    "slot" => {
                        matches.slot = is_slot(text).then(|| text.to_owned());
                        matches.slot.is_some()
                    }
                    "serial" => {
                        matches.serial = text.parse().ok();
                        matches.serial.is_some()
                    }
                    _ => {
                        matches.driver = is_module_name(text).then(|| text.to_owned());
                        matches.driver.is_some()
                    }
                };
                if !good {
                    let form = match key {
                        "address" => "0000:41:00.0",
                        "vendor-device" => "1002:74a1",
                        "model" => "mi300x",
                        "serial" => "16 hexadecimal digits, or GPU- and a UUID",
                        "slot" => "3, a name below /sys/bus/pci/slots",
                        _ => "a driver's name",
                    };
                    this.fail(
                        value.span().start,
                        format!("`{key}` is {text:?}; expected e.g. {form}"),
                    );
                }
            },
        );
        if matches.is_empty() && self.errors.len() == before {
            self.fail(
                at,
                "`match` is empty and would take every device; name at least one property".into(),
            );
        }
        (self.errors.len() == before).then_some(matches)
    }

    fn layout(&mut self, table: &DeTable<'_>, at: usize) -> Option<Layout> {
        let (mut vfs, mut bind, mut modes) = (None, None, Modes::new());
        let (mut wipe, mut park) = (Wipe::Usual, BTreeMap::new());
        let before = self.errors.len();
        let known: Vec<&str> = ["vfs", "bind", "wipe", "park"]
            .into_iter()
            .chain(Mode::ALL.iter().map(|m| m.as_str()))
            .collect();
        self.keys(table, &known, |this, key, value| match (Mode::of(key), key, value.get_ref()) {
            (Some(mode), _, _) => this.mode(mode, value, &mut modes),
            (_, "vfs", DeValue::String(text)) if text == "all" => vfs = Some(VfCount::All),
            (_, "vfs", DeValue::Integer(number)) => {
                match u16::from_str_radix(number.as_str(), number.radix()) {
                    Ok(count) => vfs = Some(VfCount::Exactly(count)),
                    Err(_) => this.fail(
                        value.span().start,
                        format!("`vfs` is {}; expected 0 to 65535 or \"all\"", number.as_str()),
                    ),
                }
            }
            (_, "vfs", _) => {
                this.fail(value.span().start, "`vfs` must be a number or \"all\"".into());
            }
            (_, "wipe", DeValue::String(text)) if text == "required" => wipe = Wipe::Required,
            (_, "wipe", _) => this.fail(
                value.span().start,
                "`wipe` must be \"required\"; without it kernel and driver do what they do".into(),
            ),
            (_, "park", DeValue::Table(table)) => park = this.park(table),
            (_, "park", _) => this.fail(
                value.span().start,
                "`park` must be a table of profiles: { nvidia-a40-8q = 1 }".into(),
            ),
            (_, _, DeValue::String(text)) if is_module_name(text) => bind = Some(text.to_string()),
            _ => this.fail(value.span().start, "`bind` must be a driver's name in quotes".into()),
        });
        if self.errors.len() > before {
            return None;
        }
        // A GPU without VFs can have modes, and mediated devices, all the same.
        let without = !modes.is_empty() || !park.is_empty();
        let vfs = vfs.or(without.then_some(VfCount::Exactly(0)));
        let Some(vfs) = vfs else {
            self.fail(at, "a layout needs `vfs`: a number or \"all\"".into());
            return None;
        };
        Some(Layout { vfs, bind, modes, wipe, park })
    }

    /// Which profiles there are, the device says.
    fn park(&mut self, table: &DeTable<'_>) -> BTreeMap<ProfileName, u32> {
        let mut park = BTreeMap::new();
        for (key, value) in table {
            let profile = match key.get_ref().parse::<ProfileName>() {
                Ok(profile) => profile,
                Err(error) => {
                    self.fail(key.span().start, format!("`park`: {error}"));
                    continue;
                }
            };
            let count = match value.get_ref() {
                DeValue::Integer(number) => {
                    u32::from_str_radix(number.as_str(), number.radix()).ok()
                }
                _ => None,
            };
            match count.filter(|count| (1..=MOST_PARKED).contains(count)) {
                Some(count) => drop(park.insert(profile, count)),
                None => self.fail(
                    value.span().start,
                    format!("`park` of {profile} must be a number from 1 to {MOST_PARKED}"),
                ),
            }
        }
        park
    }

    /// A word, a number, or a list of words: which values there are, the device says.
    fn mode(&mut self, mode: Mode, value: &Value<'_>, modes: &mut Modes) {
        let text = match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
            DeValue::Array(parts) => {
                let parts: Option<Vec<&str>> = parts.iter().map(|p| p.get_ref().as_str()).collect();
                parts.map(|parts| parts.join(","))
            }
            _ => None,
        };
        let parsed = text.ok_or("expected a text in quotes, a number or a list of texts");
        let parsed = parsed.and_then(|text| text.parse().map_err(|e: ParseIdError| e.why));
        match parsed {
            Ok(value) => drop(modes.insert(mode, value)),
            Err(why) => self.fail(value.span().start, format!("`{mode}`: {why}")),
        }
    }
}

/// Names of modules and drivers become path components and arguments of modprobe.
fn is_module_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(plain) && !text.starts_with('-')
}

/// Names of slots are the firmware's, and folders in sysfs.
fn is_slot(text: &str) -> bool {
    let plain = |c: char| !c.is_control() && !matches!(c, '/' | '"' | '\\');
    !text.is_empty() && text.len() <= 64 && text.chars().all(plain) && ![".", ".."].contains(&text)
}

fn parse_ids(text: &str) -> Option<(u16, u16)> {
    let (vendor, device) = text.split_once(':')?;
    let hex = |t: &str| (t.len() == 4).then(|| u16::from_str_radix(t, 16).ok())?;
    Some((hex(vendor)?, hex(device)?))
}

#[cfg(test)]
mod tests;
