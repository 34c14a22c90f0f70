//! Whose transcript, and what a row of it is: the closed sets that make up subjects.

use std::fmt;

/// Whose transcript a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vendor {
    /// Claude Code.
    Claude,
    /// Codex.
    Codex,
    /// Gemini CLI.
    Gemini,
}

impl Vendor {
    /// Every vendor.
    pub const ALL: [Self; 3] = [Self::Claude, Self::Codex, Self::Gemini];

    /// Returns the name as `source` in payloads.
    pub fn source(self) -> &'static str {
        match self {
            Self::Claude => "claude-code",
            Self::Codex => "codex",
            Self::Gemini => "gemini",
        }
    }

    /// Returns the token in subjects.
    pub fn token(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::Codex => "codex",
            Self::Gemini => "gemini",
        }
    }

    /// Returns the vendor that a payload names as its source.
    pub fn from_source(source: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vendor| vendor.source() == source)
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source())
    }
}

/// What a row is: the last token of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Kind {
    /// What the person, or a parent agent, asked.
    Prompt,
    /// What the model said, thought or called.
    Turn,
    /// What a tool answered.
    ToolResult,
    /// News of work under way.
    Progress,
    /// A compaction and its summary.
    Compaction,
    /// A snapshot of files.
    Snapshot,
    /// A prompt that was queued, or taken out of the queue.
    Queue,
    /// What the program itself said.
    System,
    /// Facts about the session.
    Meta,
    /// What was put before the model besides prompts: environment, instructions, attachments.
    Context,
    /// Tokens and cost.
    Usage,
    /// A change to what earlier rows said.
    Patch,
    /// A row of a type that this build does not know.
    #[default]
    Other,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Prompt,
        Self::Turn,
        Self::ToolResult,
        Self::Progress,
        Self::Compaction,
        Self::Snapshot,
        Self::Queue,
        Self::System,
        Self::Meta,
        Self::Context,
        Self::Usage,
        Self::Patch,
        Self::Other,
    ];

    /// Returns the name in subjects, payloads and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Turn => "turn",
            Self::ToolResult => "tool-result",
            Self::Progress => "progress",
            Self::Compaction => "compaction",
            Self::Snapshot => "snapshot",
            Self::Queue => "queue",
            Self::System => "system",
            Self::Meta => "meta",
            Self::Context => "context",
            Self::Usage => "usage",
            Self::Patch => "patch",
            Self::Other => "other",
        }
    }

    /// Returns the kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
