//! Lays JSON text out over several lines, without reading what it says: a list of thousands of rows is printed at the
//! speed of copying it.

// Most strings are short. memchr's own choice would first ask the processor what it can, which leaves a virtual machine.
use memchr::arch::all::memchr::Two;
use std::io::{self, Write};
use std::ops::Range;

/// So much is written at once. Fresh memory for the whole would cost more than a few system calls do.
const AT_ONCE: usize = 16 * 1024;

/// Lays out one valid JSON value as serde_json's pretty printer prints it.
///
/// # Errors
/// It cannot be written.
pub fn lay_out(json: &str, to: &mut dyn Write) -> io::Result<()> {
    let json = json.as_bytes();
    let mut out = Page { text: Vec::with_capacity(AT_ONCE), to };
    let mut depth = 0_usize;
    // What is to be printed as it stands is copied in one piece: from here to where something is put in or left out.
    let mut from = 0;
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        let here = at;
        at += 1;
        match byte {
            b'"' => at += string_length(rest(json, at)),
            b':' => {
                out.copy(json, from..at);
                out.text.push(b' ');
                from = at;
            }
            b',' => {
                out.copy(json, from..at);
                out.new_line(depth)?;
                from = at;
            }
            b'{' | b'[' => {
                out.copy(json, from..at);
                at += blanks(rest(json, at));
                from = at;
                // An empty one stays on its line.
                if matches!(json.get(at), Some(b'}' | b']')) {
                    at += 1;
                } else {
                    depth += 1;
                    out.new_line(depth)?;
                }
            }
            b'}' | b']' => {
                out.copy(json, from..here);
                depth = depth.saturating_sub(1);
                out.new_line(depth)?;
                from = here;
            }
            blank if is_blank(*blank) => {
                out.copy(json, from..here);
                from = at;
            }
            _ => {}
        }
    }
    out.copy(json, from..json.len());
    out.to.write_all(&out.text)
}

/// What has been laid out and not yet written.
struct Page<'o> {
    text: Vec<u8>,
    to: &'o mut dyn Write,
}

impl Page<'_> {
    fn copy(&mut self, json: &[u8], piece: Range<usize>) {
        self.text.extend_from_slice(json.get(piece).unwrap_or_default());
    }

    fn new_line(&mut self, depth: usize) -> io::Result<()> {
        const INDENT: &[u8] = b"                ";
        self.text.push(b'\n');
        // Standard output keeps what stands behind the last line feed for another write: here nothing does.
        if self.text.len() > AT_ONCE - INDENT.len() {
            self.to.write_all(&self.text)?;
            self.text.clear();
        }
        match INDENT.get(..2 * depth) {
            Some(indent) => self.text.extend_from_slice(indent),
            None => self.text.extend(std::iter::repeat_n(b' ', 2 * depth)),
        }
        Ok(())
    }
}

fn rest(json: &[u8], at: usize) -> &[u8] {
    json.get(at..).unwrap_or_default()
}

fn blanks(text: &[u8]) -> usize {
    text.iter().take_while(|byte| is_blank(**byte)).count()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// Bytes of a string behind its opening quote, the closing one included.
fn string_length(text: &[u8]) -> usize {
    let ends = Two::new(b'"', b'\\');
    let mut length = 0;
    while let Some(plain) = ends.find(rest(text, length)) {
        length += plain + 1;
        if text.get(length - 1) == Some(&b'"') {
            return length;
        }
        // Whatever a backslash stands before.
        length += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn laid_out(json: &str) -> String {
        let mut out = Vec::new();
        lay_out(json, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn it_is_what_serde_json_prints() {
        let deep =
            json!({ "a": [{}, [], [[]], { "b": { "c": [1, -2.5e-7, true, null] } }], "d": "" });
        let texts = json!(["", "\"", "\\", "a\\\"b", "{[,:]}", "\n\u{7}", "ä € 🎮", "ends in \\"]);
        let long = json!(vec!["x".repeat(700); 100]);
        for value in [json!(null), json!(7), json!("x"), json!([]), json!({}), deep, texts, long] {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            assert_eq!(laid_out(&value.to_string()), pretty);
            // Laid out again it stays so.
            assert_eq!(laid_out(&pretty), pretty);
        }
    }

    #[test]
    fn what_is_cut_off_is_printed_as_far_as_it_goes() {
        let whole = json!([{ "a": "b\\\"c" }]).to_string();
        for cut in 0..whole.len() {
            let laid_out = laid_out(&whole[..cut]);
            let solid: String = laid_out.split_whitespace().collect();
            assert_eq!(solid, whole[..cut]);
        }
        assert!(serde_json::from_str::<Value>(&whole).is_ok());
    }
}
