<?php
/**
 * The settings card among BuddyBoss's integrations, from Platform 3.0.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * The card has the addresses and the state; the secret and the connection test are on the settings page.
 */
final class Buddyline_Feature_Card {

	const FEATURE = 'buddyline';

	/**
	 * Registers the hooks.
	 */
	public function register() {
		// At init, because texts cannot be translated earlier.
		add_action( 'init', array( $this, 'register_card' ), 20 );
		add_action( 'bb_admin_save_feature_settings_after', array( $this, 'saved' ), 10, 1 );
	}

	/**
	 * Registers the card, where BuddyBoss has such cards.
	 */
	public function register_card() {
		if ( ! is_admin() || ! current_user_can( Buddyline_Settings::capability() ) ) {
			return;
		}
		foreach ( array( 'bb_register_integration', 'bb_register_side_panel', 'bb_register_feature_section', 'bb_register_feature_field' ) as $function ) {
			if ( ! function_exists( $function ) ) {
				return;
			}
		}
		bb_register_integration(
			self::FEATURE,
			array(
				'label'              => __( 'Buddyline', 'buddyline' ),
				'description'        => __( 'Messages, reads, blocks and sign-outs reach connected apps and pages at once, through your own server.', 'buddyline' ),
				'icon'               => array(
					'type' => 'svg',
					'url'  => plugins_url( 'assets/icon.svg', BUDDYLINE_FILE ),
				),
				'license_tier'       => 'free',
				'standalone'         => true,
				'required'           => true,
				'is_active_callback' => '__return_true',
				'settings_route'     => '/settings/' . self::FEATURE,
				'order'              => 50,
			)
		);
		bb_register_side_panel(
			self::FEATURE,
			'buddyline_settings',
			array(
				'title'      => __( 'Buddyline', 'buddyline' ),
				'icon'       => array(
					'type'  => 'font',
					'class' => 'bb-icons-rl bb-icons-rl-gear',
				),
				'order'      => 10,
				'is_default' => true,
			)
		);
		$this->register_section();
	}

	/**
	 * Registers the section with its fields.
	 */
	private function register_section() {
		$state  = Buddyline_State::load();
		$status = array(
			'type' => 'warning',
			'text' => __( 'Not set up', 'buddyline' ),
		);
		if ( Buddyline_Options::is_ready() ) {
			$is_connected = 0 === $state['failures'] && $state['last_ok'] > 0;
			$status       = array(
				'type' => $is_connected ? 'success' : 'warning',
				'text' => $is_connected ? __( 'Connected', 'buddyline' ) : __( 'Not connected', 'buddyline' ),
			);
		}
		bb_register_feature_section(
			self::FEATURE,
			'buddyline_settings',
			'buddyline_connection',
			array(
				'title'       => __( 'Connection', 'buddyline' ),
				'description' => esc_html( Buddyline_Settings::state_text( $state, time() ) ),
				'order'       => 10,
				'status'      => $status,
			)
		);
		$fields = array(
			array(
				'name'              => 'buddyline_url',
				'label'             => __( 'Server address', 'buddyline' ),
				'type'              => 'text',
				'default'           => '',
				'placeholder'       => 'wss://community.example/live',
				'description'       => __( 'The address to which browsers and apps connect.', 'buddyline' ),
				'sanitize_callback' => array( __CLASS__, 'sanitize_url' ),
				'order'             => 10,
			),
			array(
				'name'              => 'buddyline_events_url',
				'label'             => __( 'Internal address', 'buddyline' ),
				'type'              => 'text',
				'default'           => '',
				'placeholder'       => 'http://127.0.0.1:8080',
				'description'       => __( 'Optional: the address at which this site reaches the server, when it is another one. Events go to this address and /site/events.', 'buddyline' ),
				'sanitize_callback' => array( __CLASS__, 'sanitize_events_url' ),
				'order'             => 20,
			),
			array(
				'name'              => 'buddyline_secret_notice',
				'label'             => __( 'Secret and test', 'buddyline' ),
				'type'              => 'notice',
				'notice_type'       => 'plain',
				'description'       => sprintf(
					/* translators: %s: link to the settings page. */
					__( 'See or roll the secret, and test the connection in both directions, on the %s.', 'buddyline' ),
					'<a href="' . esc_url( Buddyline_Settings::page_url() ) . '">' . esc_html__( 'settings page', 'buddyline' ) . '</a>'
				),
				'sanitize_callback' => '__return_empty_string',
				'order'             => 30,
			),
		);
		foreach ( $fields as $field ) {
			bb_register_feature_field( self::FEATURE, 'buddyline_settings', 'buddyline_connection', $field );
		}
	}

	/**
	 * Cleans the address for browsers. BuddyBoss stores what comes back: a wrong one changes nothing.
	 *
	 * @param mixed $value Value.
	 * @return string
	 */
	public static function sanitize_url( $value ) {
		return self::sanitize( $value, 'url', array( 'ws', 'wss' ) );
	}

	/**
	 * Cleans the internal address.
	 *
	 * @param mixed $value Value.
	 * @return string
	 */
	public static function sanitize_events_url( $value ) {
		return self::sanitize( $value, 'events_url', array( 'http', 'https' ) );
	}

	/**
	 * Cleans an address, or keeps the one before.
	 *
	 * @param mixed    $value   Value.
	 * @param string   $name    Setting.
	 * @param string[] $schemes Schemes.
	 * @return string
	 */
	private static function sanitize( $value, $name, $schemes ) {
		if ( ! is_string( $value ) || '' === trim( $value ) ) {
			return '';
		}
		$clean = Buddyline_Options::clean_url( $value, $schemes );
		return '' !== $clean ? $clean : (string) Buddyline_Options::get( $name );
	}

	/**
	 * The card was saved.
	 *
	 * @param mixed $feature Feature.
	 */
	public function saved( $feature ) {
		if ( self::FEATURE === $feature ) {
			Buddyline_Settings::settings_changed();
		}
	}
}
