//! Lays JSON text out over several lines, without reading what it says: a list of thousands of rows is printed at the
//! speed of copying it.

/// Lays out one valid JSON value as serde_json's pretty printer prints it.
pub fn laid_out(json: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() + json.len() / 2);
    let mut depth = 0_usize;
    // Nothing stands in the list or object that was opened last.
    let mut empty = false;
    let mut rest = json.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let from = rest;
        rest = after;
        match first {
            b' ' | b'\n' | b'\r' | b'\t' => continue,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if !empty {
                    new_line(&mut out, depth);
                }
                empty = false;
            }
            _ if empty => {
                new_line(&mut out, depth);
                empty = false;
            }
            _ => {}
        }
        if *first == b'"' {
            let end = 1 + string_length(rest);
            let (string, after) = from.split_at_checked(end).unwrap_or((from, &[]));
            out.extend_from_slice(string);
            rest = after;
            continue;
        }
        out.push(*first);
        match first {
            b'{' | b'[' => {
                depth += 1;
                empty = true;
            }
            b',' => new_line(&mut out, depth),
            b':' => out.push(b' '),
            _ => {}
        }
    }
    out
}

fn new_line(out: &mut Vec<u8>, depth: usize) {
    const DEEP: &[u8] = b"\n                ";
    match DEEP.get(..1 + 2 * depth) {
        Some(indent) => out.extend_from_slice(indent),
        None => {
            out.push(b'\n');
            out.extend(std::iter::repeat_n(b' ', 2 * depth));
        }
    }
}

/// Bytes of a string behind its opening quote, the closing one included.
fn string_length(text: &[u8]) -> usize {
    let mut length = 0;
    while let Some(at) = text.get(length..).and_then(|t| memchr::memchr2(b'"', b'\\', t)) {
        length += at + 1;
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

    #[test]
    fn it_is_what_serde_json_prints() {
        let deep =
            json!({ "a": [{}, [], [[]], { "b": { "c": [1, -2.5e-7, true, null] } }], "d": "" });
        let texts = json!(["", "\"", "\\", "a\\\"b", "{[,:]}", "\n\u{7}", "ä € 🎮", "ends in \\"]);
        for value in [json!(null), json!(7), json!("x"), json!([]), json!({}), deep, texts] {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            assert_eq!(String::from_utf8(laid_out(&value.to_string())).unwrap(), pretty);
            // Laid out again it stays so.
            assert_eq!(String::from_utf8(laid_out(&pretty)).unwrap(), pretty);
        }
    }

    #[test]
    fn what_is_cut_off_is_printed_as_far_as_it_goes() {
        let whole = json!([{ "a": "b\\\"c" }]).to_string();
        for cut in 0..whole.len() {
            let laid_out = String::from_utf8(laid_out(&whole[..cut])).unwrap();
            let solid: String = laid_out.split_whitespace().collect();
            assert_eq!(solid, whole[..cut]);
        }
        assert!(serde_json::from_str::<Value>(&whole).is_ok());
    }
}
