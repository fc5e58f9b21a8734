/* Pages that are opened from a folder may not start workers, and the search runs in one. This stands in for it: the
   worker's script runs in a hidden frame of the same page. Pages from a server keep the browser's own workers. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.setAttribute("aria-hidden", "true")
      document.body.append(frame)
      this.frame = frame
      const inside = frame.contentWindow
      inside.postMessage = (data) => this.deliver(data)
      this.ready = new Promise((resolve) => {
        const script = frame.contentDocument.createElement("script")
        script.src = new URL(address, location.href).href
        script.onload = resolve
        script.onerror = () => this.dispatchEvent(new ErrorEvent("error", { message: `${script.src} cannot be read` }))
        frame.contentDocument.body.append(script)
      })
    }
    deliver(data) {
      const message = new MessageEvent("message", { data })
      this.dispatchEvent(message)
      if (this.onmessage) this.onmessage(message)
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {
      this.frame.remove()
    }
  }
}
