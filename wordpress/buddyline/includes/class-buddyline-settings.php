<?php
/**
 * The settings page: address, secret and connection test.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * The settings page under Settings, or under the network's settings.
 */
final class Buddyline_Settings {

	const PAGE = 'buddyline';

	/**
	 * What the last action has to show on this page.
	 *
	 * @var array{notice: string, is_error: bool, secret: string, rows: array[]}
	 */
	private $shown = array(
		'notice'   => '',
		'is_error' => false,
		'secret'   => '',
		'rows'     => array(),
	);

	/**
	 * Registers the hooks.
	 */
	public function register() {
		add_action( is_multisite() ? 'network_admin_menu' : 'admin_menu', array( $this, 'add_page' ) );
		$plugin = plugin_basename( BUDDYLINE_FILE );
		add_filter( ( is_multisite() ? 'network_admin_' : '' ) . 'plugin_action_links_' . $plugin, array( $this, 'add_link' ) );
	}

	/**
	 * What a user needs to be able to do.
	 *
	 * @return string
	 */
	public static function capability() {
		return is_multisite() ? 'manage_network_options' : 'manage_options';
	}

	/**
	 * The page's address.
	 *
	 * @return string
	 */
	public static function page_url() {
		return is_multisite() ? network_admin_url( 'settings.php?page=' . self::PAGE ) : admin_url( 'options-general.php?page=' . self::PAGE );
	}

	/**
	 * Adds the page to the menu.
	 */
	public function add_page() {
		$hook = add_submenu_page(
			is_multisite() ? 'settings.php' : 'options-general.php',
			__( 'Buddyline', 'buddyline' ),
			__( 'Buddyline', 'buddyline' ),
			self::capability(),
			self::PAGE,
			array( $this, 'print_page' )
		);
		if ( $hook ) {
			add_action( 'load-' . $hook, array( $this, 'handle_action' ) );
		}
	}

	/**
	 * Adds a link on the plugins screen.
	 *
	 * @param string[] $links Links.
	 * @return string[]
	 */
	public function add_link( $links ) {
		$links   = is_array( $links ) ? $links : array();
		$links[] = sprintf( '<a href="%s">%s</a>', esc_url( self::page_url() ), esc_html__( 'Settings', 'buddyline' ) );
		return $links;
	}

	/**
	 * Carries out what a button of the page asks for.
	 */
	public function handle_action() {
		if ( ! isset( $_POST['buddyline_action'] ) ) {
			return;
		}
		if ( ! current_user_can( self::capability() ) ) {
			wp_die( esc_html__( 'You are not allowed to change these settings.', 'buddyline' ), '', array( 'response' => 403 ) );
		}
		check_admin_referer( 'buddyline_settings', 'buddyline_nonce' );
		switch ( sanitize_key( wp_unslash( $_POST['buddyline_action'] ) ) ) {
			case 'save':
				$this->save();
				break;
			case 'show':
				$this->show_secret();
				break;
			case 'roll':
				$this->roll_secret();
				break;
			case 'test':
				nocache_headers();
				$this->shown['rows'] = Buddyline_Check::run();
				break;
		}
	}

	/**
	 * Saves the addresses.
	 */
	private function save() {
		// phpcs:disable WordPress.Security.NonceVerification.Missing -- handle_action() has verified it.
		$values = array();
		foreach ( array(
			'url'        => array( 'ws', 'wss' ),
			'events_url' => array( 'http', 'https' ),
		) as $name => $schemes ) {
			$entered = isset( $_POST[ 'buddyline_' . $name ] ) && is_string( $_POST[ 'buddyline_' . $name ] ) ? trim( sanitize_text_field( wp_unslash( $_POST[ 'buddyline_' . $name ] ) ) ) : '';
			$clean   = Buddyline_Options::clean_url( $entered, $schemes );
			if ( '' !== $entered && '' === $clean ) {
				$this->shown['is_error'] = true;
				/* translators: %s: what was entered. */
				$this->shown['notice'] = sprintf( __( '"%s" is not the address of a server. Expected is an address such as wss://community.example/live, without a user, query or fragment. Nothing was saved.', 'buddyline' ), $entered );
				return;
			}
			$values[ $name ] = $clean;
		}
		// phpcs:enable
		foreach ( $values as $name => $value ) {
			Buddyline_Options::set( $name, $value );
		}
		self::settings_changed();
		$this->shown['notice'] = __( 'The settings are saved.', 'buddyline' );
	}

	/**
	 * Lets the server forget what it learned, and tries it at once.
	 */
	public static function settings_changed() {
		Buddyline_State::set(
			array(
				'failures' => 0,
				'retry_at' => 0,
			)
		);
		$queue = Buddyline_Plugin::queue();
		if ( $queue ) {
			$queue->put( 'resync', array( 'type' => 'resync' ) );
		}
	}

	/**
	 * Shows the secret, once.
	 */
	private function show_secret() {
		if ( Buddyline_Options::is_secret_constant() || '' !== (string) Buddyline_Options::get( 'secret_shown' ) ) {
			$this->shown['is_error'] = true;
			$this->shown['notice']   = __( 'The secret was shown before. Make a new one if you have lost it.', 'buddyline' );
			return;
		}
		nocache_headers();
		Buddyline_Options::ensure_secret();
		$this->shown['secret'] = Buddyline_Options::secret();
		Buddyline_Options::set( 'secret_shown', '1' );
	}

	/**
	 * Makes a new secret and shows it.
	 */
	private function roll_secret() {
		nocache_headers();
		$secret = Buddyline_Options::roll_secret();
		if ( '' === $secret ) {
			$this->shown['is_error'] = true;
			$this->shown['notice']   = __( 'The secret is set in wp-config.php. Change it there.', 'buddyline' );
			return;
		}
		$this->shown['secret'] = $secret;
		$this->shown['notice'] = __( 'There is a new secret. The one before stays valid for 24 hours.', 'buddyline' );
		Buddyline_Options::set( 'secret_shown', '1' );
	}

	/**
	 * Prints the page.
	 */
	public function print_page() {
		if ( ! current_user_can( self::capability() ) ) {
			return;
		}
		echo '<div class="wrap"><h1>' . esc_html__( 'Buddyline', 'buddyline' ) . '</h1>';
		if ( '' !== $this->shown['notice'] ) {
			printf( '<div class="notice notice-%s"><p>%s</p></div>', $this->shown['is_error'] ? 'error' : 'success', esc_html( $this->shown['notice'] ) );
		}
		echo '<p>' . esc_html__( 'Connects this community with a buddyline server: what happens on the site reaches connected apps and pages at once. Without a server every page works as before.', 'buddyline' ) . '</p>';
		$this->print_addresses();
		$this->print_secret();
		$this->print_test();
		echo '</div>';
	}

	/**
	 * Opens a form for an action.
	 *
	 * @param string $action Action.
	 */
	private static function open_form( $action ) {
		printf( '<form method="post" action="%s"><input type="hidden" name="buddyline_action" value="%s">', esc_url( self::page_url() ), esc_attr( $action ) );
		wp_nonce_field( 'buddyline_settings', 'buddyline_nonce' );
	}

	/**
	 * Prints the form with the addresses.
	 */
	private function print_addresses() {
		self::open_form( 'save' );
		echo '<table class="form-table" role="presentation">';
		self::print_field(
			'url',
			__( 'Server address', 'buddyline' ),
			'wss://community.example/live',
			__( 'The address to which browsers and apps connect.', 'buddyline' ),
			defined( 'BUDDYLINE_URL' )
		);
		self::print_field(
			'events_url',
			__( 'Internal address', 'buddyline' ),
			'http://127.0.0.1:8080',
			__( 'Optional: the address at which this site reaches the server, when it is another one. Events go to this address and /site/events.', 'buddyline' ),
			defined( 'BUDDYLINE_EVENTS_URL' )
		);
		echo '</table>';
		submit_button( __( 'Save', 'buddyline' ) );
		echo '</form>';
	}

	/**
	 * Prints a field.
	 *
	 * @param string $name        Name without prefix.
	 * @param string $label       Label.
	 * @param string $example     Example.
	 * @param string $help        Help.
	 * @param bool   $is_constant Whether wp-config.php sets it.
	 */
	private static function print_field( $name, $label, $example, $help, $is_constant ) {
		$value = 'url' === $name ? Buddyline_Options::url() : (string) Buddyline_Options::get( $name );
		if ( $is_constant && 'url' !== $name ) {
			$value = BUDDYLINE_EVENTS_URL;
		}
		if ( $is_constant ) {
			$help = __( 'wp-config.php sets this address.', 'buddyline' );
		}
		printf(
			'<tr><th scope="row"><label for="buddyline_%1$s">%2$s</label></th><td><input class="regular-text code" type="text" id="buddyline_%1$s" name="buddyline_%1$s" value="%3$s" placeholder="%4$s"%5$s><p class="description">%6$s</p></td></tr>',
			esc_attr( $name ),
			esc_html( $label ),
			esc_attr( $value ),
			esc_attr( $example ),
			$is_constant ? ' readonly' : '',
			esc_html( $help )
		);
	}

	/**
	 * Prints what can be done with the secret.
	 */
	private function print_secret() {
		echo '<h2>' . esc_html__( 'Secret', 'buddyline' ) . '</h2>';
		if ( Buddyline_Options::is_secret_constant() ) {
			echo '<p>' . esc_html( '' === Buddyline_Options::secret() ? __( 'BUDDYLINE_SECRET in wp-config.php is not valid: it needs 32 to 512 printable ASCII characters without spaces.', 'buddyline' ) : __( 'wp-config.php sets the secret.', 'buddyline' ) ) . '</p>';
			return;
		}
		if ( '' !== $this->shown['secret'] ) {
			echo '<p>' . esc_html__( 'Copy this line into the file that the server reads with --site-secret-file. It is shown only now.', 'buddyline' ) . '</p>';
			printf( '<p><input class="large-text code" type="text" readonly onfocus="this.select()" id="buddyline_secret" aria-label="%s" value="%s"></p>', esc_attr__( 'Secret', 'buddyline' ), esc_attr( $this->shown['secret'] ) );
		} else {
			echo '<p>' . esc_html__( 'The site and the server sign what they send each other with a shared secret.', 'buddyline' ) . '</p>';
		}
		$previous = Buddyline_Options::get( 'secret_previous', array() );
		if ( '' !== Buddyline_Options::previous_secret() && is_array( $previous ) ) {
			/* translators: %s: duration. */
			echo '<p>' . esc_html( sprintf( __( 'The secret before this one stays valid for %s.', 'buddyline' ), human_time_diff( time(), (int) $previous['until'] ) ) ) . '</p>';
		}
		if ( '' === (string) Buddyline_Options::get( 'secret_shown' ) ) {
			self::open_form( 'show' );
			submit_button( __( 'Show the secret', 'buddyline' ), 'secondary', 'submit', false );
			echo '</form>';
		} else {
			self::open_form( 'roll' );
			submit_button( __( 'Make a new secret', 'buddyline' ), 'secondary', 'submit', false );
			echo '</form>';
		}
	}

	/**
	 * Prints the state of the connection and the test.
	 */
	private function print_test() {
		echo '<h2>' . esc_html__( 'Connection', 'buddyline' ) . '</h2><p>' . esc_html( self::state_text( Buddyline_State::load(), time() ) ) . '</p>';
		if ( $this->shown['rows'] ) {
			$marks = array(
				'ok'      => array( 'dashicons-yes-alt', '#007017', __( 'OK', 'buddyline' ) ),
				'warning' => array( 'dashicons-warning', '#996800', __( 'Warning', 'buddyline' ) ),
				'error'   => array( 'dashicons-dismiss', '#b32d2e', __( 'Error', 'buddyline' ) ),
			);
			echo '<table class="widefat striped" id="buddyline_test"><tbody>';
			foreach ( $this->shown['rows'] as $row ) {
				$mark = $marks[ $row['state'] ];
				printf(
					'<tr data-state="%1$s"><td style="width:1.5em"><span class="dashicons %2$s" style="color:%3$s" aria-hidden="true"></span><span class="screen-reader-text">%4$s</span></td><th scope="row" style="width:14em">%5$s</th><td>%6$s</td></tr>',
					esc_attr( $row['state'] ),
					esc_attr( $mark[0] ),
					esc_attr( $mark[1] ),
					esc_html( $mark[2] ),
					esc_html( $row['title'] ),
					esc_html( $row['text'] )
				);
			}
			echo '</tbody></table>';
		}
		self::open_form( 'test' );
		submit_button( __( 'Test the connection', 'buddyline' ), 'secondary' );
		echo '</form>';
	}

	/**
	 * The state of the connection in one sentence.
	 *
	 * @param array $state State.
	 * @param int   $now   Unix time.
	 * @return string
	 */
	public static function state_text( $state, $now ) {
		if ( ! Buddyline_Options::is_ready() ) {
			return __( 'Not set up: nothing is sent.', 'buddyline' );
		}
		if ( $state['failures'] > 0 ) {
			return sprintf(
				/* translators: 1: duration, 2: error, 3: number of events. */
				__( 'The server does not take events; the last attempt was %1$s ago: %2$s. Not sent so far: %3$d.', 'buddyline' ),
				human_time_diff( $state['last_error_at'], $now ),
				$state['last_error'],
				$state['missed']
			);
		}
		if ( $state['last_ok'] > 0 ) {
			/* translators: %s: duration. */
			return sprintf( __( 'Connected: the server took events %s ago.', 'buddyline' ), human_time_diff( $state['last_ok'], $now ) );
		}
		return __( 'No event has been sent yet.', 'buddyline' );
	}
}
