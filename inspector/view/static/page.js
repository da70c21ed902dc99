// Runs once when the page opens.
() => {
  // An open sidebar would cover the whole of a phone's screen.
  const open = document.querySelector('.sidebar.open .toggle-button');
  if (open && window.innerWidth < 769) open.click();

  // Gradio 6.31 opens a list anew at the very Tab that leaves it, and there it stays.
  window.addEventListener('keydown', event => {
    const inList = event.target.getAttribute?.('role') === 'combobox';
    if (event.key === 'Tab' && inList) event.stopPropagation();
  }, true);

  // Files that are dropped anywhere are opened as by the button of the Runs tab. Left to itself, the
  // browser would leave the page for them.
  const hasFiles = event => Array.from(event.dataTransfer?.types || []).includes('Files');
  const mark = on => document.body.classList.toggle('dropping', on);
  window.addEventListener('dragover', event => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(true);
  });
  window.addEventListener('dragleave', event => { if (!event.relatedTarget) mark(false); });
  window.addEventListener('drop', event => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(false);
    give(event.dataTransfer.files, 50);
  });

  function give(files, tries) {
    const input = document.getElementById('run-upload')?.previousElementSibling;
    if (input?.type === 'file') {
      input.files = files;
      input.dispatchEvent(new Event('change', {bubbles: true}));
    } else if (tries) {  // the parts of a tab are made once it is opened
      if (tries === 50) runs()?.click();
      setTimeout(give, 100, files, tries - 1);
    }
  }

  function runs() {
    const tabs = document.querySelectorAll('#tabs [role=tab], #tabs .overflow-dropdown button');
    return Array.from(tabs).find(each => each.textContent.trim() === 'Runs');
  }
}
