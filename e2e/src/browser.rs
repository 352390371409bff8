//! A real browser without a screen, driven by WebDriver (w3.org/TR/webdriver2) through chromedriver.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use cli::demo::http::{Ask, Client, HttpError};
use serde_json::{Value, json};

/// The key under which WebDriver names elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How long an element that is not there is waited for.
const IMPLICIT_WAIT_MS: u32 = 2_000;

/// The browser did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrowserError {
    /// It is not installed.
    #[error("chromedriver does not start: install it and Chromium with ./tools/browser (Debian: apt-get install chromium chromium-driver)")]
    Missing(#[source] std::io::Error),
    /// It says nothing of a port.
    #[error("chromedriver does not say where it listens")]
    Port,
    /// No directory for its profile.
    #[error("no directory for the browser's profile")]
    Profile(#[source] std::io::Error),
    /// No answer.
    #[error("chromedriver does not answer")]
    Http(#[from] HttpError),
    /// A refusal.
    #[error("the browser refuses `{line}`: {told}")]
    Refused {
        /// What was asked.
        line: String,
        /// Why not.
        told: String,
    },
}

/// One window, with a profile of its own. It ends when it is dropped.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    client: Client,
    session: String,
    profile: std::path::PathBuf,
}

impl Browser {
    /// Starts chromedriver on a free port and opens a window.
    ///
    /// # Errors
    /// When either is not there.
    pub async fn start(home: &std::path::Path) -> Result<Self, BrowserError> {
        let mut driver = Command::new("chromedriver");
        driver.args(["--port=0", "--log-level=SEVERE"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = driver.spawn().map_err(BrowserError::Missing)?;
        let port = port(&mut driver);
        let profile = home.join(format!("profile-{}", driver.id()));
        // From here on it is ended by drop, whatever fails.
        let mut browser = Self { driver, client: Client::new(""), session: String::new(), profile };
        std::fs::create_dir(&browser.profile).map_err(BrowserError::Profile)?;
        browser.client = Client::new(&format!("http://127.0.0.1:{}", port.ok_or(BrowserError::Port)?));
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", browser.profile.display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}});
        let opened = browser.send(Ask::post("/session").json(&wanted)).await?;
        browser.session = text(opened.get("sessionId"));
        // A click may return before the page that it leads to is there.
        browser.post("timeouts", json!({"implicit": IMPLICIT_WAIT_MS})).await?;
        Ok(browser)
    }

    async fn send(&mut self, ask: Ask) -> Result<Value, BrowserError> {
        let line = ask.line();
        let answer = self.client.send(&ask).await?;
        let value = answer.json().get("value").cloned().unwrap_or_default();
        if answer.status == 200 { Ok(value) } else { Err(BrowserError::Refused { line, told: text(value.get("message")) }) }
    }

    async fn get(&mut self, what: &str) -> Result<Value, BrowserError> {
        let path = format!("/session/{}/{what}", self.session);
        self.send(Ask::get(&path)).await
    }

    async fn post(&mut self, what: &str, body: Value) -> Result<Value, BrowserError> {
        let path = format!("/session/{}/{what}", self.session);
        self.send(Ask::post(&path).json(&body)).await
    }

    /// Opens a page, as if its address was typed.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn open(&mut self, url: &str) -> Result<(), BrowserError> {
        self.post("url", json!({"url": url})).await.map(|_null| ())
    }

    /// Where the window is.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn url(&mut self) -> Result<String, BrowserError> {
        Ok(text(Some(&self.get("url").await?)))
    }

    async fn find(&mut self, selector: &str) -> Result<String, BrowserError> {
        let found = self.post("element", json!({"using": "css selector", "value": selector})).await?;
        Ok(text(found.get(ELEMENT)))
    }

    /// What a person reads in the first element of a selector.
    ///
    /// # Errors
    /// When there is none.
    pub async fn read(&mut self, selector: &str) -> Result<String, BrowserError> {
        let element = self.find(selector).await?;
        Ok(text(Some(&self.get(&format!("element/{element}/text")).await?)))
    }

    /// What the style sheets make of a property of the first element of a selector.
    ///
    /// # Errors
    /// When there is none.
    pub async fn style(&mut self, selector: &str, property: &str) -> Result<String, BrowserError> {
        let element = self.find(selector).await?;
        Ok(text(Some(&self.get(&format!("element/{element}/css/{property}")).await?)))
    }

    /// Whether the page has such an element.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn has(&mut self, selector: &str) -> Result<bool, BrowserError> {
        let found = self.post("elements", json!({"using": "css selector", "value": selector})).await?;
        Ok(found.as_array().is_some_and(|found| !found.is_empty()))
    }

    /// Types into a field.
    ///
    /// # Errors
    /// When there is no such field.
    pub async fn write(&mut self, selector: &str, typed: &str) -> Result<(), BrowserError> {
        let element = self.find(selector).await?;
        self.post(&format!("element/{element}/value"), json!({"text": typed})).await.map(|_null| ())
    }

    /// Clicks, and waits for the page that this leads to.
    ///
    /// # Errors
    /// When there is nothing to click.
    pub async fn click(&mut self, selector: &str) -> Result<(), BrowserError> {
        let element = self.find(selector).await?;
        self.post(&format!("element/{element}/click"), json!({})).await.map(|_null| ())
    }

    /// The cookies of this page, as a script could not read them.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn cookies(&mut self) -> Result<Vec<Value>, BrowserError> {
        Ok(self.get("cookie").await?.as_array().cloned().unwrap_or_default())
    }
}

impl Drop for Browser {
    /// Chromedriver takes its browser along.
    fn drop(&mut self) {
        let _gone = self.driver.kill();
        let _gone = self.driver.wait();
        let _gone = std::fs::remove_dir_all(&self.profile);
    }
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// `ChromeDriver was started successfully on port 34567.`
fn port(driver: &mut Child) -> Option<u16> {
    let lines = BufReader::new(driver.stdout.take()?).lines();
    // Its first line names the port that it was asked for, which is none.
    lines.map_while(Result::ok).find_map(|line| line.rsplit_once("successfully on port ")?.1.trim_end_matches('.').parse().ok())
}
