//! Debian's package manager.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::tools;

/// A way to run apt-get with the right to install.
#[derive(Debug)]
pub(super) struct Installer {
    /// What stands before `apt-get`: nothing for root, `sudo -n` otherwise.
    prefix: &'static [&'static str],
}

impl Installer {
    /// `None` where there is no apt-get, or neither root nor a sudo that asks for no password.
    pub(super) fn find() -> Option<Self> {
        tools::on_path("apt-get")?;
        if succeeds("test", &["-w", "/var/lib/dpkg"]) {
            return Some(Self { prefix: &[] });
        }
        succeeds("sudo", &["-n", "true"]).then_some(Self { prefix: &["sudo", "-n"] })
    }

    /// Refreshes the lists and installs `packages`, without asking and without recommended extras.
    pub(super) fn install(&self, packages: &[&str]) -> Result<()> {
        eprintln!("setup: installing {}", packages.join(" "));
        self.apt_get(&["update", "--quiet"])?;
        let mut arguments = vec!["install", "--quiet", "--yes", "--no-install-recommends"];
        arguments.extend_from_slice(packages);
        self.apt_get(&arguments)
            .with_context(|| format!("help: to try it by hand, run\n{}", by_hand(packages)))
    }

    fn apt_get(&self, arguments: &[&str]) -> Result<()> {
        let words: Vec<&str> =
            [self.prefix, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"], arguments]
                .concat();
        let line = words.join(" ");
        eprintln!("$ {line}");
        let status = Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("cannot run `{line}`"))?;
        if !status.success() {
            bail!("`{line}` failed ({status})");
        }
        Ok(())
    }
}

/// The commands that a person with the right to install would type, one a line.
pub(super) fn by_hand(packages: &[&str]) -> String {
    format!(
        "    sudo apt-get update\n    sudo apt-get install --yes --no-install-recommends {}\n",
        packages.join(" ")
    )
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_by_hand_name_every_package() {
        let text = by_hand(&["llvm-22-dev", "clang-22"]);
        assert!(text.contains("apt-get update"));
        assert!(text.ends_with("llvm-22-dev clang-22\n"));
    }
}
