//! What packages ship beside the binary, made from the same definition as `--help`.

use crate::args::Arguments;
use crate::failure::Failure;
use crate::output::Output;
use clap::CommandFactory;
use clap_complete::Shell;
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use std::io;
use std::path::Path;

/// Names are asked for first, and where there are none, what can be typed anywhere. Between colons, of which addresses are made,
/// bash takes each part for a word.
const BASH: &str = r#"
_gpuslice_names() {
    local typed=() words=() word cut=""
    read -ra typed <<< "${COMP_LINE:0:COMP_POINT}"
    [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && typed+=("")
    if [[ ${typed[-1]} != -* ]]; then
        mapfile -t words < <(GPUSLICE_COMPLETE=1 command gpuslice "${typed[@]:1}" 2>/dev/null)
    fi
    if ((${#words[@]} == 0)); then
        _gpuslice "$@"
        return
    fi
    [[ $COMP_WORDBREAKS == *:* && ${typed[-1]} == *:* ]] && cut=${typed[-1]%"${typed[-1]##*:}"}
    COMPREPLY=()
    for word in "${words[@]}"; do
        printf -v word %q "${word#"$cut"}"
        COMPREPLY+=("$word")
    done
}
complete -F _gpuslice_names -o bashdefault -o default gpuslice
"#;

/// The condition asks, so that files are offered where there are no names.
const FISH: &str = r#"
function __gpuslice_names
    set -l typed (commandline -opc) (commandline -ct)
    set -g __gpuslice_found (GPUSLICE_COMPLETE=1 command gpuslice $typed[2..-1] 2>/dev/null)
    test (count $__gpuslice_found) -gt 0
end
complete -c gpuslice -n __gpuslice_names -f -a '$__gpuslice_found'
"#;

const ZSH: &str = r#"
_gpuslice() {
    local -a found
    if [[ $words[CURRENT] != -* ]]; then
        found=(${(f)"$(GPUSLICE_COMPLETE=1 command gpuslice "${(@Q)words[2,CURRENT]}" 2>/dev/null)"})
    fi
    if (( $#found )); then
        compadd -a found
    else
        _gpuslice_typed "$@"
    fi
}

"#;

pub fn completions(shell: Shell, output: &Output) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "gpuslice", &mut bytes);
    let typed = String::from_utf8_lossy(&bytes);
    let whole = match shell {
        Shell::Bash => format!("{typed}{BASH}"),
        Shell::Fish => format!("{typed}{FISH}"),
        // The name by which zsh loads and calls it.
        Shell::Zsh => typed.replacen("\n_gpuslice() {", &format!("{ZSH}_gpuslice_typed() {{"), 1),
        _ => typed.into_owned(),
    };
    output.bytes(whole.as_bytes())
}

/// One page to stdout, or all of them as files.
pub fn man(dir: Option<&Path>, output: &Output) -> Result<(), Failure> {
    let command = manual();
    let Some(dir) = dir else {
        return output.bytes(&page(command).map_err(|e| unwritten(Path::new("stdout"), &e))?);
    };
    write_pages(dir, "gpuslice", command)
}

/// All that has a page: `help` has none, as it prints those.
fn manual() -> clap::Command {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    command
}

/// A command's page and those of the commands below it.
fn write_pages(dir: &Path, name: &str, command: clap::Command) -> Result<(), Failure> {
    let below: Vec<_> = command.get_subcommands().cloned().collect();
    write_page(dir, name, command)?;
    for sub in below {
        write_pages(dir, &format!("{name}-{}", sub.get_name()), sub)?;
    }
    Ok(())
}

fn write_page(dir: &Path, name: &str, command: clap::Command) -> Result<(), Failure> {
    let path = dir.join(format!("{name}.1"));
    let written = page(command).and_then(|bytes| std::fs::write(&path, bytes));
    written.map_err(|e| unwritten(&path, &e))
}

fn page(command: clap::Command) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    clap_mangen::Man::new(command).render(&mut bytes)?;
    Ok(bytes)
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    Refusal::new(Code::OutputUnwritable, "the manual page cannot be written")
        .because(format!("write {path}: {error}"))
        .hint(hint!("name a directory that exists and that you may write to"))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_name_their_command_and_its_examples() {
        let mut command = Arguments::command();
        command.build();
        let attach = command.find_subcommand("attach").unwrap().clone();
        let text = String::from_utf8(page(attach).unwrap()).unwrap();
        assert!(text.contains("gpuslice\\-attach") || text.contains("gpuslice-attach"), "{text}");
        assert!(text.contains("nvidia\\-a40\\-8q"), "{text}");
    }

    #[test]
    fn a_page_names_the_pages_that_are_written() {
        let dir = tempfile::tempdir().unwrap();
        write_pages(dir.path(), "gpuslice", manual()).unwrap();
        let read = |name: &str| {
            std::fs::read_to_string(dir.path().join(name)).unwrap().replace("\\-", "-")
        };
        let mut named = 0;
        for page in ["gpuslice.1", "gpuslice-export.1"] {
            let text = read(page);
            for line in text.lines().filter(|line| line.ends_with("(1)")) {
                let name = line.trim_end_matches("(1)");
                assert!(dir.path().join(format!("{name}.1")).exists(), "{page}: {line}");
                named += 1;
            }
        }
        assert!(named > 20, "{named}");
        let about = "Print commands that tell another program of this host's slices";
        for page in ["gpuslice.1", "gpuslice-export.1"] {
            assert!(read(page).replace("\\*(Aq", "'").contains(about), "{page}");
        }
    }
}
